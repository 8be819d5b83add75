"""`kdse web`: a static page that runs a student in the browser."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from kdse import pretrained
from kdse.commands.parser import Parser
from kdse.web.build import TITLE, build_page, check_target
from kdse.web.runtime import DEFAULT_FOLDER, INSTALL, VERSION, runtime_files

#: Environment variable that says where onnxruntime-web is.
RUNTIME_VARIABLE = "KDSE_ORT_WEB"

EPILOG = f"""\
The page takes a file or the microphone, enhances it hop by hop as a device would, and lets people compare before and
after. It is a folder for any static host: no server side, no special headers, no request to another host. Browsers
give the microphone only to pages opened by https or from localhost.

It carries ONNX Runtime Web {VERSION}, which must be on this computer when the page is built:
  {INSTALL}

examples:
  kdse web --out page --serve
  kdse web runs/student/checkpoints/last.ckpt --out page --example noisy.wav --overwrite
  kdse web student.onnx --runtime package --out page
"""


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    Raises:
        ValueError: on a user's mistake.
    """
    arguments = _parser().parse_args(argv)
    runtime = arguments.runtime or Path(os.environ.get(RUNTIME_VARIABLE) or DEFAULT_FOLDER)
    check_target(arguments.out, arguments.overwrite)  # before the export, which takes its time
    runtime_files(runtime)
    with tempfile.TemporaryDirectory() as folder:
        model = step_graph(arguments.model, Path(folder), arguments.trust_code)
        out = build_page(model, runtime, arguments.out, arguments.title, arguments.example, arguments.overwrite)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"written to {arguments.out}: {size / 1e6:.1f} MB, to be put on any static host")
    if arguments.serve is not None:
        _serve(out, arguments.serve)
    return 0


def step_graph(model: str | None, folder: Path, trust_code: bool = False) -> Path:
    """The model as an exported file: itself, or a checkpoint exported into ``folder``."""
    path = pretrained.find(model or pretrained.DEFAULT)
    boxed = pretrained.exported(path)
    if path.suffix == ".onnx" or boxed is not None:
        return boxed or path
    from kdse.deploy.export.write import export_file
    from kdse.models.checkpoint import load_model

    target = folder / f"{path.stem}.onnx"
    export_file(load_model(path, trust_code=trust_code), target, checkpoint=path)
    return target


def _serve(folder: Path, port: int) -> None:
    from kdse.web.serve import make_server

    with make_server(folder, port) as server:
        print(f"open http://localhost:{server.server_port}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="kdse web", description="Build a static page that runs a student in the browser.", epilog=EPILOG
    )
    add = parser.add_argument
    add(
        "model", nargs="?", metavar="MODEL",
        help="step graph of kdse export (.onnx), checkpoint, or a model in the box (default: that of kdse enhance)",
    )  # fmt: skip
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the page")
    add(
        "--runtime", type=Path, metavar="DIR",
        help=f"unpacked npm package onnxruntime-web (default: ${RUNTIME_VARIABLE}, else {DEFAULT_FOLDER})",
    )  # fmt: skip
    add(
        "--example",
        type=Path,
        metavar="WAV",
        help="a recording that the page offers to try; it is published with the page",
    )
    add("--title", default=TITLE, help="heading of the page (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace an earlier page in DIR")
    add(
        "--serve", type=int, nargs="?", const=8000, metavar="PORT",
        help="then serve it on this computer until Ctrl-C (port 8000 if none is given; 0: a free one)",
    )  # fmt: skip
    add(
        "--trust-code",
        action="store_true",
        help="let a checkpoint name model classes that kdse does not ship, and run them",
    )
    return parser
