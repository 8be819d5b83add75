"""`kdse corpus`: generate the embedded corpus (build), list a corpus (index), put it into shards (pack)."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from kdse.commands import corpus_index, corpus_pack
from kdse.commands.parser import Parser


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code.

    Raises:
        ValueError: a wrong setting, or a folder that cannot be used.
    """
    arguments = _parser().parse_args(argv)
    return int(arguments.run(arguments))


def run_build(arguments: argparse.Namespace) -> int:
    """Generates the embedded corpus; returns the exit code.

    Raises:
        ValueError: as `kdse.data.synthesis.build.build`.
    """
    from kdse.data.synthesis.build import build, cache_folder
    from kdse.data.synthesis.plan import Settings

    settings = Settings(minutes=arguments.minutes, seed=arguments.seed)
    # Absolute: a working directory given as "." is replaced by the finished folder.
    folder = Path(os.path.abspath(arguments.out.expanduser() if arguments.out is not None else cache_folder(settings)))
    started = time.monotonic()
    generated = build(settings, folder, workers=arguments.workers, progress=not arguments.json)
    seconds = time.monotonic() - started
    contents = summary(folder)
    if arguments.json:
        report = {"folder": str(folder), "generated": generated, "build_seconds": round(seconds, 1), **contents}
        print(json.dumps(report, indent=2))
        return 0
    print(f"{'generated in ' + format(seconds, '.0f') + ' s' if generated else 'already there'}: {folder}")
    for name, part in contents["parts"].items():
        types = f"  ({', '.join(part['types'])})" if name.startswith("noise") else ""
        print(f"  {name:13s} {part['files']:4d} files {part['minutes']:6.1f} minutes{types}")
    sys.stdout.flush()
    return 0


def summary(folder: Path) -> dict[str, dict[str, dict]]:
    """Files, minutes and types of each part of a corpus, read from its manifest."""
    parts: dict[str, dict] = {}
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            part = parts.setdefault(f"{row['kind']}/{row['split']}", {"files": 0, "minutes": 0.0, "types": []})
            part["files"] += 1
            part["minutes"] += float(row["seconds"]) / 60
            if row["type"] not in part["types"]:
                part["types"].append(row["type"])
    for part in parts.values():
        part["minutes"] = round(part["minutes"], 2)
    return {"parts": parts}


def _parser() -> Parser:
    parser = Parser(
        prog="kdse corpus",
        description="Corpora: generate the embedded one, list your own once, put it into shards.",
        epilog="`kdse corpus COMMAND --help` explains each.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="build | index | pack")
    command = commands.add_parser(
        "build",
        help="generate the embedded corpus, or say where it is",
        description="Generates the embedded corpus once: espeak-ng speech, procedural noises and simulated rooms,\n"
        "all made on this machine. Training and `--data=kdse.data.SyntheticCorpus` build it by themselves when it is\n"
        "missing. Safe to interrupt and to run again: it goes on where it stopped. The same settings give the same\n"
        "audio, whatever the number of workers.",
        epilog="",
    )
    command.add_argument(
        "--out", type=Path, metavar="FOLDER", help="corpus folder (default: in $KDSE_CACHE, else in ~/.cache/kdse)"
    )
    command.add_argument(
        "--minutes", type=float, default=20.0, help="training speech; the rest is in proportion (default: 20)"
    )
    command.add_argument("--workers", type=int, help="processes (default: one a core, at most 8; 0: none)")
    command.add_argument("--seed", type=int, default=0, help="another seed gives another corpus (default: 0)")
    command.add_argument("--json", action="store_true", help="print the result as JSON, show no progress")
    command.set_defaults(run=run_build)
    for name, module in (("index", corpus_index), ("pack", corpus_pack)):
        command = commands.add_parser(name, help=module.HELP, description=module.DESCRIPTION, epilog=module.EPILOG)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
