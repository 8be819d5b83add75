"""`kdse corpus`: generate the embedded corpus (build), list a corpus (index), put it into shards (pack)."""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdse.commands.parser import Parser
from kdse.errors import UserError, printable
from kdse.machine.progress import Lines
from kdse.machine.threads import available_cores

BUILD = """\
Generates the embedded corpus once: espeak-ng speech, procedural noises and simulated rooms, all made on this machine.
Training and `--data=kdse.data.SyntheticCorpus` build it by themselves when it is missing. Safe to interrupt and to run
again: it goes on where it stopped. The same settings give the same audio, whatever the number of workers."""
INDEX = """\
Measures every audio file below FOLDER, whatever libsndfile reads (wav, flac, mp3, ogg, ...) and through links too, and
writes what it found (samples, rate, channels, bytes) into one file, the manifest. Training and every command that
reads the folder, or one below it, then takes the list from there: nothing is walked through or opened at the start.

Run it on the corpus folder (with speech/train, noise/train, ...): one manifest serves all of it, and a second one
above or below it is refused, because one of them would be out of date without anybody noticing. It can be killed and
run again; what was measured is not measured twice. A file that is missing or has another size when training reads it
is an error that names it: run `kdse corpus index FOLDER --update` after every change."""
INDEX_EXAMPLES = """\
examples:
  kdse corpus index corpus/
  kdse corpus index corpus/ --update
  kdse corpus index /read-only/corpus --out corpus.kdse     and then  --data.manifest corpus.kdse
  kdse corpus index corpus/ --check decode --leave-out-bad  (bad files are named in corpus/manifest.bad.txt)"""
PACK = """\
Copies the recordings of FOLDER into large files (shards) below OUT, encoded as they are: crops are still read without
decoding the rest. Packs speech/{train,valid,test}, noise/... and rir/... as far as they are there; a folder with none
of these is packed whole. The shards are LitData's; `pip install 'kdse[shards]'`.

`--data.root OUT` trains from them, and the mixtures are bit for bit those of FOLDER; `--data.folder OUT` does so for
NoisyFolder. Copy OUT to object storage with the tool of your provider, and `--data.root s3://bucket/OUT` (or gs://,
azure://, r2://) trains from there, with the credentials of the environment; `--data.shard_cache FOLDER` keeps what was
read on a local disk.

It can be killed and run again: it goes on in OUT.partial, and OUT appears when it is complete."""
PACK_EXAMPLES = """\
examples:
  kdse corpus index corpus/; kdse corpus pack corpus/ packed/
  kdse fit --config experiments/two_step/base.yaml --config experiments/two_step/teacher.yaml --data.root packed/"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    arguments.run(arguments)
    return 0


def build_corpus(arguments: argparse.Namespace) -> None:
    """Generates the embedded corpus, or says where it is."""
    from kdse.data.synthesis.build import build, cache_folder
    from kdse.data.synthesis.plan import Settings

    settings = Settings(minutes=arguments.minutes, seed=arguments.seed)
    # Absolute: a working directory given as "." is replaced by the finished folder.
    folder = Path(os.path.abspath(arguments.out.expanduser() if arguments.out is not None else cache_folder(settings)))
    started = time.monotonic()
    generated = build(settings, folder, workers=arguments.workers, progress=not arguments.json)
    seconds = time.monotonic() - started
    parts = _parts(folder)
    if arguments.json:
        report = {"folder": str(folder), "generated": generated, "build_seconds": round(seconds, 1), "parts": parts}
        print(json.dumps(report, indent=2))
        return
    print(f"{f'generated in {seconds:.0f} s' if generated else 'already there'}: {printable(folder)}")
    for name, part in parts.items():
        types = f"  ({', '.join(part['types'])})" if name.startswith("noise") else ""
        print(f"  {name:13s} {part['files']:4d} files {part['minutes']:6.1f} minutes{types}")


def _parts(folder: Path) -> dict[str, dict[str, Any]]:
    """Files, minutes and types of each part of a corpus, read from its manifest."""
    parts: dict[str, dict[str, Any]] = {}
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            part = parts.setdefault(f"{row['kind']}/{row['split']}", {"files": 0, "minutes": 0.0, "types": []})
            part["files"] += 1
            part["minutes"] += float(row["seconds"]) / 60
            if row["type"] not in part["types"]:
                part["types"].append(row["type"])
    return {name: {**part, "minutes": round(part["minutes"], 2)} for name, part in parts.items()}


def index_corpus(arguments: argparse.Namespace) -> None:
    """Measures the files of a corpus, so that no start of a training has to."""
    from kdse.audio.listing import CHECKS
    from kdse.data.corpus.indexing import build, manifest_of
    from kdse.data.corpus.manifest import load

    folder = arguments.folder.expanduser()
    out = None if arguments.out is None else arguments.out.expanduser()
    manifest = manifest_of(folder, out)
    started = time.monotonic()
    done = None
    if arguments.update or not manifest.exists() or not folder.is_dir():
        lines = Lines("index", "files", not arguments.json)
        workers = _processes(arguments.workers)
        done = build(folder, out, workers, arguments.check, arguments.update, arguments.leave_out_bad, lines)
    seconds = time.monotonic() - started
    listed = load(manifest)
    if CHECKS.index(listed.check) < CHECKS.index(arguments.check):
        raise UserError(f"{manifest}: is there already, made with --check {listed.check}; add --update")
    rates = Counter(listed.rates.tolist())
    hours = sum(float(listed.frames[listed.rates == rate].sum()) / rate for rate in rates) / 3600
    nothing = {"kept": len(listed), "measured": 0, "left_out": 0, "gone": 0, "replaced": "", "passed_over": ""}
    report: dict[str, Any] = (nothing if done is None else asdict(done)) | {
        "manifest": str(manifest),
        "files": len(listed),
        "hours": round(hours, 3),
        "bytes": int(listed.sizes.sum()),
        "rates": {str(rate): count for rate, count in sorted(rates.items())},
        "check": listed.check,
        "seconds": round(seconds, 1),
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    state = "already there; --update measures what is new or has changed" if done is None else f"{seconds:.0f} s"
    print(f"{printable(manifest)}  ({state})")
    print(f"  {report['files']} files, {hours:.1f} hours, {report['bytes'] / 1e9:.2f} GB, looked at: {listed.check}")
    print("  " + ", ".join(f"{count} at {rate} Hz" for rate, count in report["rates"].items()))
    if done is not None:
        if done.replaced:
            print(f"  the manifest that was there could not be used ({printable(done.replaced.split('; ')[0])})")
        print(f"  measured {done.measured}, known before {done.kept}, gone {done.gone}, left out {done.left_out}")
        if done.passed_over:
            print(f"  of the other files: {done.passed_over}")


def pack_corpus(arguments: argparse.Namespace) -> None:
    """Copies a corpus of many small files into shards."""
    from kdse.data.corpus.packing import pack

    started = time.monotonic()
    folder, out = arguments.folder.expanduser(), arguments.out.expanduser()
    lines = Lines("pack", "shards", not arguments.json)
    done = pack(folder, out, arguments.shard_mb, _processes(arguments.workers), arguments.manifest, lines)
    seconds = time.monotonic() - started
    if arguments.json:
        print(json.dumps({"out": str(arguments.out), **asdict(done), "seconds": round(seconds, 1)}, indent=2))
    else:
        size = f"{done.bytes / 1e9:.2f} GB"
        print(
            f"{printable(arguments.out)}: {done.recordings} recordings, {size}, {done.shards} shards in {seconds:.0f} s"
        )


def _processes(asked: int | None) -> int:
    return min(32, available_cores()) if asked is None else asked


def _parser() -> Parser:
    parser = Parser(
        "kdse corpus",
        "Corpora: generate the embedded one, list your own once, put it into shards.",
        "`kdse corpus COMMAND --help` explains each.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="build | index | pack")

    text = "generate the embedded corpus, or say where it is"
    build: Parser = commands.add_parser("build", help=text, description=BUILD, epilog="")
    build.set_defaults(run=build_corpus)
    add = build.add_argument
    add("--out", type=Path, metavar="FOLDER", help="corpus folder (default: in $KDSE_CACHE, else in ~/.cache/kdse)")
    add("--minutes", type=float, default=20.0, help="training speech; the rest is in proportion (default: 20)")
    add("--workers", type=int, help="processes (default: one a core, at most 8; 0: none)")
    add("--seed", type=int, default=0, help="another seed gives another corpus (default: 0)")
    build.add_json()

    text = "list the files of a corpus with their lengths, so that training starts at once"
    index: Parser = commands.add_parser("index", help=text, description=INDEX, epilog=INDEX_EXAMPLES)
    index.set_defaults(run=index_corpus)
    add = index.add_argument
    add("folder", type=Path, metavar="FOLDER", help="corpus folder, or any folder of recordings")
    out = "the manifest (default: FOLDER/manifest.kdse, which needs no flag to find)"
    add("--out", type=Path, metavar="FILE", help=out)
    add("--workers", type=int, help="processes (default: one a core, at most 32; 0: none)")
    add(
        "--check", choices=("header", "decode"), default="header",
        help="header: unreadable and empty files are found; decode: reads every sample and finds files that are cut "
        "short or hold NaN or infinite samples too, which takes hours for a large corpus (default: header)",
    )  # fmt: skip
    add("--update", action="store_true", help="measure files that are new or changed, forget those that are gone")
    add("--leave-out-bad", action="store_true", help="list the good files only (default: bad files are an error)")
    index.add_json()

    text = "copy a corpus into shards, for object storage or a slow file system"
    pack: Parser = commands.add_parser("pack", help=text, description=PACK, epilog=PACK_EXAMPLES)
    pack.set_defaults(run=pack_corpus)
    add = pack.add_argument
    add("folder", type=Path, metavar="FOLDER", help="corpus folder, or any folder of recordings")
    add("out", type=Path, metavar="OUT", help="packed folder, new or empty")
    add("--shard-mb", type=float, default=64.0, metavar="MB", help="size of a shard (default: 64)")
    add("--workers", type=int, help="processes (default: one a core, at most 32; 0: none)")
    add("--manifest", type=Path, metavar="FILE", help="manifest of FOLDER, if it lies somewhere else")
    pack.add_json()
    return parser
