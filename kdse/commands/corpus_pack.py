"""`kdse corpus pack`: put a corpus of many small files into shards, for disks and object storage that dislike those."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from kdse.commands.corpus_index import processes
from kdse.machine.progress import Lines

HELP = "copy a corpus into shards, for object storage or a slow file system"
DESCRIPTION = """\
Copies the recordings of FOLDER into large files (shards) below OUT, encoded as they are: crops are still read without
decoding the rest. Packs speech/{train,valid,test}, noise/... and rir/... as far as they are there; a folder with none
of these is packed whole. The shards are LitData's; `pip install 'kdse[shards]'`.

`--data.root OUT` trains from them, and the mixtures are bit for bit those of FOLDER; `--data.folder OUT` does so for
NoisyFolder. Copy OUT to object storage with the tool of your provider, and `--data.root s3://bucket/OUT` (or gs://,
azure://, r2://) trains from there, with the credentials of the environment; `--data.shard_cache FOLDER` keeps what was
read on a local disk.

It can be killed and run again: it goes on in OUT.partial, and OUT appears when it is complete."""
EPILOG = """\
examples:
  kdse corpus index corpus/; kdse corpus pack corpus/ packed/
  kdse fit --config experiments/two_step/base.yaml --config experiments/two_step/teacher.yaml --data.root packed/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="corpus folder, or any folder of recordings")
    parser.add_argument("out", type=Path, metavar="OUT", help="packed folder, new or empty")
    parser.add_argument("--shard-mb", type=float, default=64.0, metavar="MB", help="size of a shard (default: 64)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core, at most 32; 0: none)")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="manifest of FOLDER, if it lies somewhere else")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code.

    Raises:
        ValueError: as `kdse.data.corpus.packing.pack`.
    """
    from kdse.data.corpus.packing import pack

    started = time.monotonic()
    done = pack(
        arguments.folder.expanduser(),
        arguments.out.expanduser(),
        arguments.shard_mb,
        processes(arguments.workers),
        arguments.manifest,
        Lines("pack", "shards", not arguments.json),
    )
    seconds = time.monotonic() - started
    report = {
        "out": str(arguments.out),
        "recordings": done.recordings,
        "bytes": done.bytes,
        "shards": done.shards,
        "kept": done.kept,
        "seconds": round(seconds, 1),
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        size = f"{done.bytes / 1e9:.2f} GB"
        print(f"{arguments.out}: {done.recordings} recordings, {size}, {done.shards} shards in {seconds:.0f} s")
    return 0
