"""`kdse web`: a static page that runs a student in the browser."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

from kdse.commands.model import add_model, named_model, open_model, run_of
from kdse.commands.parser import Parser
from kdse.pretrained import DEFAULT, MODEL, Named, exported, is_onnx
from kdse.web.runtime import DEFAULT_FOLDER, INSTALL, VERSION, runtime_files
from kdse.web.serve import make_server

#: Environment variable that says where onnxruntime-web is.
RUNTIME_VARIABLE = "KDSE_ORT_WEB"

EPILOG = f"""\
The page takes a file or the microphone, enhances it hop by hop as a device would, and lets people compare before and
after. It is a folder for any static host: no server side, no special headers, no request to another host. Browsers
give the microphone only to pages opened by https or from localhost.

It carries ONNX Runtime Web {VERSION}, which must be on this computer when the page is built:
  {INSTALL}

examples:
  kdse web --serve
  kdse web runs/student --out page --example noisy.wav --overwrite
  kdse web student.onnx --runtime package --out page
"""


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    from kdse.web.build import TITLE, build_page, check_target

    named = named_model(arguments)
    folder = arguments.out or (run_of(named) or Path()) / "page"
    runtime = arguments.runtime or Path(os.environ.get(RUNTIME_VARIABLE) or DEFAULT_FOLDER)
    check_target(folder, arguments.overwrite)  # before the export, which takes its time
    runtime_files(runtime)
    with tempfile.TemporaryDirectory() as temporary:
        graph = step_graph(named, Path(temporary), arguments)
        out = build_page(graph, runtime, folder, arguments.title or TITLE, arguments.example, arguments.overwrite)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if arguments.json:
        print(json.dumps({"out": str(folder), "bytes": size}), flush=True)
    else:
        print(f"written to {folder}: {size / 1e6:.1f} MB, to be put on any static host")
    if arguments.serve is not None:
        with make_server(out, arguments.serve) as server, contextlib.suppress(KeyboardInterrupt):
            stream = sys.stderr if arguments.json else sys.stdout
            print(f"open http://localhost:{server.server_port}/ (Ctrl-C ends)", file=stream, flush=True)
            server.serve_forever()
    return 0


def step_graph(named: Named, folder: Path, arguments: argparse.Namespace) -> Path:
    """The model as an exported file: itself, that of the box, or one exported into ``folder``."""
    if named.path is not None and (is_onnx(named.path) or exported(named.path) is not None):
        return exported(named.path) or named.path
    from kdse.deploy.export.write import export_file

    target = folder / f"{named.label}.onnx"
    export_file(open_model(named, arguments), target, checkpoint=named.path)
    return target


def _parser() -> argparse.ArgumentParser:
    parser = Parser("kdse web", "Build a static page that runs a student in the browser.", EPILOG)
    add_model(parser, "model", nargs="?", default=DEFAULT, help=f"{MODEL} (default: {DEFAULT})")
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="folder for the page (default: page, in the run folder or else here)")
    add(
        "--runtime", type=Path, metavar="DIR",
        help=f"unpacked npm package onnxruntime-web (default: ${RUNTIME_VARIABLE}, else {DEFAULT_FOLDER})",
    )  # fmt: skip
    add("--example", type=Path, metavar="WAV", help="a recording to offer on the page; it is published with it")
    add("--title", help="heading of the page")
    parser.add_overwrite("an earlier page in DIR")
    add(
        "--serve", type=int, nargs="?", const=8000, metavar="PORT",
        help="then serve it on this computer until Ctrl-C (port 8000 if none is given; 0: a free one)",
    )  # fmt: skip
    parser.add_json()
    return parser
