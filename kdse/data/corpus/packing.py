"""Packs a corpus into shards: each is a job of its own, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from kdse.audio.listing import Measured, audio_files, measure
from kdse.data.corpus.corpora import Corpus, check_listed, scan
from kdse.data.corpus.manifest import NAME, write
from kdse.data.corpus.manifest_lookup import INDEX
from kdse.data.corpus.pool import as_they_come
from kdse.data.corpus.shards import EXTRA
from kdse.errors import UserError
from kdse.internals.litdata import ITEM_HEADER, WORD, write_chunk
from kdse.machine.files import write_text

KINDS, SPLITS = ("speech", "noise", "rir"), ("train", "valid", "test")
#: LitData counts the bytes of a chunk in 32 bits.
MOST_BYTES = (1 << 32) - 1
#: The plan stays in the packed folder: without it, what a kill leaves right before the end could not be told.
PLAN, LOCK = ".plan.json", ".lock"


class Shard(NamedTuple):
    """One job: recordings ``[first, last)`` of a part become the shard number ``number``."""

    part: str
    number: int
    first: int
    last: int


@dataclass(frozen=True)
class Packed:
    """What `pack` did: recordings and bytes of the packed files, shards, and how many of these an earlier run left."""

    recordings: int
    bytes: int
    shards: int
    kept: int


def parts_of(folder: Path) -> list[str]:
    """The folders of a corpus that hold audio ("speech/train"); [""] for a plain folder of recordings."""
    return [f"{kind}/{split}" for kind in KINDS for split in SPLITS if (folder / kind / split).is_dir()] or [""]


def pack(
    folder: Path,
    out: Path,
    shard_mb: float = 64.0,
    workers: int = 0,
    manifest: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Copies the recordings of a corpus into shards, encoded as they are and in the order of the corpus.

    Everything is made in ``OUT.partial``, which becomes ``OUT`` when it is complete.

    Args:
        folder: with speech/{train,valid,test}, noise/... and rir/..., or plain recordings.
        out: the packed folder; there must be none, or an empty one.
        shard_mb: bytes of a shard in units of 1e6; a longer recording gets one of its own.
        workers: processes; 0 means none besides this one.
        manifest: of the folder, if it lies somewhere else.
        progress: is told how many shards of how many are done.

    Raises:
        ValueError: naming what is wrong with folder or out, or a recording that cannot be used.
    """
    try:
        import litdata  # noqa: F401
    except ImportError as error:
        raise UserError(f"kdse corpus pack needs LitData ({EXTRA}): {error}") from None
    if not 0 < shard_mb * 1e6 <= MOST_BYTES / 2:
        raise UserError(f"--shard-mb {shard_mb:g}: must lie between 0 and 2147")
    if workers < 0:
        raise UserError(f"--workers {workers}: must be at least 0")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: is not empty; pack into a new folder, or remove it")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{out}: lies inside {folder}; pack into a folder outside it")
    with _becoming(out) as partial:
        corpora = {part: scan(folder / part, "FOLDER", manifest, files_only=True) for part in parts_of(folder)}
        for corpus in corpora.values():
            _check_complete(corpus)
        rows = {part: list(_rows(corpus)) for part, corpus in corpora.items()}
        shards = [s for part in rows for s in plan(part, [row.size for row in rows[part]], round(shard_mb * 1e6))]
        _same_plan(partial / PLAN, rows, shards)
        jobs = []
        for shard in shards:
            into = partial / shard.part
            into.mkdir(parents=True, exist_ok=True)
            if not _note_of(into, shard.number).exists() and not (into / INDEX).exists():
                jobs.append((shard, corpora[shard.part].root, rows[shard.part][shard.first : shard.last], into))
        kept = len(shards) - len(jobs)
        progress(kept, len(shards))
        for done, _ in enumerate(as_they_come(write_shard, jobs, workers), kept + 1):
            progress(done, len(shards))
        for part, corpus in corpora.items():
            _finish(partial / part, corpus, rows[part], [shard.number for shard in shards if shard.part == part])
    sizes = [row.size for part in rows.values() for row in part]
    return Packed(len(sizes), sum(sizes), len(shards), kept)


@contextmanager
def _becoming(out: Path) -> Iterator[Path]:
    """The folder of the work in progress, locked, which becomes ``out`` when the body ends without an error."""
    partial = out.with_name(f"{out.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with FileLock(partial / LOCK, timeout=0):
            yield partial
            (partial / LOCK).unlink()
            if out.exists():
                out.rmdir()
            os.replace(partial, out)
    except Timeout:
        raise UserError(f"{partial}: another process is packing into it") from None
    except OSError as error:
        raise UserError(f"{partial}: cannot be written ({error.strerror or error})") from None


def plan(part: str, sizes: list[int], shard_bytes: int) -> Iterator[Shard]:
    """Which recordings go into which shard: neighbours, until the next would make it too large."""
    first = number = filled = 0
    for place, size in enumerate(sizes):
        if place > first and filled + size > shard_bytes:
            yield Shard(part, number, first, place)
            first, number, filled = place, number + 1, 0
        filled += size
    yield Shard(part, number, first, len(sizes))


def write_shard(shard: Shard, root: str, rows: list[Measured], into: Path) -> None:
    """Writes one shard with LitData's writer, compares it with the files, and notes that it is complete."""
    contents = []
    for row in rows:
        file = Path(root) / row.path
        check_listed(file, row.size, f"the manifest or {into.parent}")
        contents.append(file.read_bytes())
    most = sum(map(len, contents)) + (2 * WORD + ITEM_HEADER) * (len(contents) + 2)
    if most > MOST_BYTES:
        raise UserError(f"{Path(root) / rows[0].path}: is too large for a shard; split the recording")
    scratch = into / f".{shard.number}.{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    made, index = write_chunk(scratch, shard.number, contents, most + 1)
    (about,) = index["chunks"]
    position = WORD * (len(contents) + 2)
    with open(made, "rb+") as chunk:
        for row, content in zip(rows, contents, strict=True):
            chunk.seek(position + ITEM_HEADER)
            if chunk.read(len(content)) != content:
                raise UserError(f"{made}: LitData did not put {row.path} where kdse reads it; use litdata 0.2.76")
            position += ITEM_HEADER + len(content)
        os.fsync(chunk.fileno())
    name = f"chunk-0-{shard.number}.bin"
    os.replace(made, into / name)
    note = {"chunk": {**about, "filename": name}, "config": index["config"]}
    write_text(_note_of(into, shard.number), json.dumps(note))
    shutil.rmtree(scratch)


def _rows(corpus: Corpus) -> Iterator[Measured]:
    """What the manifest of a packed folder says: of an indexed corpus that, else measured now."""
    if corpus.manifest is not None:
        yield from corpus.manifest.rows()
        return
    for path in corpus.paths:
        row = measure(corpus.root, path, "header")
        if row.fault:
            raise UserError(f"{corpus.root}/{path}: {row.fault}")
        yield row


def _check_complete(corpus: Corpus) -> None:
    """Refuses a manifest that does not list the files that are there: OUT would lack them for ever."""
    if (listed := corpus.manifest) is None:
        return
    names, there = set(listed.paths), set(audio_files(corpus.root))
    for differing, why in ((names - there, "is gone"), (there - names - set(listed.left_out), "is not listed")):
        if differing:
            name = f"{corpus.root}/{min(differing)}"
            others = f" ({len(differing)} such files)" if len(differing) > 1 else ""
            raise UserError(
                f"{name}: {why}; {listed.file} of {listed.made} is out of date; run `{listed.mend}`{others}"
            )


def _note_of(into: Path, number: int) -> Path:
    return into / f".chunk-{number}.json"


def _same_plan(file: Path, rows: dict[str, list[Measured]], shards: list[Shard]) -> None:
    """Refuses to go on with another corpus, or another size of shards, than the unfinished pack began with."""
    digest = hashlib.sha256(json.dumps([rows, shards]).encode()).hexdigest()
    if file.exists():
        if file.read_text(encoding="utf-8") != digest:
            raise UserError(
                f"{file.parent}: is the unfinished pack of another corpus, other files or another --shard-mb; remove it"
            )
    elif any(path.name != LOCK for path in file.parent.iterdir()):
        raise UserError(f"{file.parent}: is needed for the work in progress and holds something else; remove it")
    else:
        write_text(file, digest)


def _finish(into: Path, corpus: Corpus, rows: list[Measured], numbers: list[int]) -> None:
    """Writes manifest and LitData's index of one part; then the notes of its shards are not needed."""
    if not (into / INDEX).exists():
        write(into / NAME, corpus.root, "header" if corpus.manifest is None else corpus.manifest.check, rows)
        content = (into / NAME).read_bytes()
        notes: list[dict[str, Any]] = [json.loads(_note_of(into, number).read_bytes()) for number in numbers]
        digest = hashlib.sha256(content).hexdigest()
        index = {
            "chunks": [note["chunk"] for note in notes],
            "config": notes[0]["config"],
            "updated_at": digest[:16],
            "kdse": {"version": 1, "manifest": NAME, "bytes": len(content), "sha256": digest},
        }
        write_text(into / INDEX, json.dumps(index, sort_keys=True))
    for number in numbers:
        _note_of(into, number).unlink(missing_ok=True)
    for scratch in into.glob(".[0-9]*.*"):  # of processes that were killed
        shutil.rmtree(scratch)
