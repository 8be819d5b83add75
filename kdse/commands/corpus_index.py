"""`kdse corpus index`: measure the files of a corpus once, so that no start of a training has to."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kdse.machine.processes import available_cores
from kdse.machine.progress import Lines

HELP = "list the files of a corpus with their lengths, so that training starts at once"
DESCRIPTION = """\
Measures every wav, flac and ogg file below FOLDER (samples, rate, channels, bytes) and writes what it found into one
file, the manifest. Training and every command that reads the folder, or one below it, then takes the list from there:
nothing is walked through or opened at the start.

Run it on the corpus folder (with speech/train, noise/train, ...): one manifest serves all of it, and a second one
above or below it is refused, because one of them would be out of date without anybody noticing. It can be killed and
run again; what was measured is not measured twice. A file that is missing or has another size when training reads it
is an error that names it: run `kdse corpus index FOLDER --update` after every change."""
EPILOG = """\
examples:
  kdse corpus index corpus/
  kdse corpus index corpus/ --update
  kdse corpus index /read-only/corpus --out corpus.kdse     and then  --data.manifest corpus.kdse
  kdse corpus index corpus/ --check decode --leave-out-bad  (bad files are named in corpus/manifest.bad.txt)"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="corpus folder, or any folder of recordings")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the manifest (default: FOLDER/manifest.kdse, which needs no flag to find)",
    )
    parser.add_argument("--workers", type=int, help="processes (default: one a core, at most 32; 0: none)")
    parser.add_argument(
        "--check",
        choices=("header", "decode"),
        default="header",
        help="header: unreadable and empty files are found; decode: reads every sample and finds files that are cut "
        "short or hold NaN or infinite samples too, which takes hours for a large corpus (default: header)",
    )
    parser.add_argument(
        "--update", action="store_true", help="measure files that are new or changed, forget those that are gone"
    )
    parser.add_argument(
        "--leave-out-bad", action="store_true", help="list the good files only (default: bad files are an error)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code.

    Raises:
        ValueError: as `kdse.data.corpus.indexing.build`.
    """
    from kdse.audio.listing import CHECKS
    from kdse.data.corpus.indexing import build, manifest_of
    from kdse.data.corpus.manifest import load

    folder = arguments.folder.expanduser()
    out = None if arguments.out is None else arguments.out.expanduser()
    manifest = manifest_of(folder, out)
    started = time.monotonic()
    done = None
    if arguments.update or not manifest.exists() or not folder.is_dir():
        done = build(
            folder,
            out,
            processes(arguments.workers),
            arguments.check,
            arguments.update,
            arguments.leave_out_bad,
            Lines("index", "files", not arguments.json),
        )
    seconds = time.monotonic() - started
    listed = load(manifest)
    if CHECKS.index(listed.check) < CHECKS.index(arguments.check):
        raise ValueError(f"{manifest}: is there already, made with --check {listed.check}; add --update")
    rates = Counter(listed.rates.tolist())
    hours = sum(float(listed.frames[listed.rates == rate].sum()) / rate for rate in rates) / 3600
    report: dict[str, Any] = {
        "manifest": str(manifest),
        "files": len(listed),
        "hours": round(hours, 3),
        "bytes": int(listed.sizes.sum()),
        "rates": {str(rate): count for rate, count in sorted(rates.items())},
        "check": listed.check,
        "measured": 0 if done is None else done.measured,
        "kept": len(listed) if done is None else done.kept,
        "left_out": 0 if done is None else done.left_out,
        "gone": 0 if done is None else done.gone,
        "replaced": "" if done is None else done.replaced,
        "seconds": round(seconds, 1),
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    state = "already there; --update measures what is new or has changed" if done is None else f"{seconds:.0f} s"
    print(f"{manifest}  ({state})")
    print(f"  {report['files']} files, {hours:.1f} hours, {report['bytes'] / 1e9:.2f} GB, looked at: {listed.check}")
    print("  " + ", ".join(f"{count} at {rate} Hz" for rate, count in report["rates"].items()))
    if done is not None:
        if done.replaced:
            print(f"  the manifest that was there could not be used ({done.replaced.split('; ')[0]})")
        print(f"  measured {done.measured}, known before {done.kept}, gone {done.gone}, left out {done.left_out}")
    return 0


def processes(asked: int | None) -> int:
    """Number of processes: as asked, else one for each core that this process may use, at most 32."""
    return min(32, available_cores()) if asked is None else asked
