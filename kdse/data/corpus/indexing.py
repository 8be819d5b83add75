"""Builds the manifest of a folder: each file is measured once, by many processes, and a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from kdse.audio.listing import CHECKS, Measured, list_audio, measure
from kdse.data.corpus.manifest import NAME, Manifest, load, write
from kdse.data.corpus.manifest_lookup import refuse_rivals
from kdse.data.corpus.pool import as_they_come
from kdse.errors import UserError, printable
from kdse.machine.files import write_text

#: Files that a process measures before it reports: what a kill can cost each process.
BATCH = 64


@dataclass(frozen=True)
class Indexed:
    """What `build` did.

    manifest: the file. files: how many it lists. kept: of them, how many were not measured again. measured: how many
    were. left_out: bad files that are not listed. gone: files that an older manifest listed and that are no more.
    replaced: why an older manifest could not be used; empty if it could, or if there was none.
    passed_over: what else is in the folder (see `Listing.left_out`).
    """

    manifest: Path
    files: int
    kept: int
    measured: int
    left_out: int
    gone: int
    replaced: str = ""
    passed_over: str = ""


def manifest_of(folder: Path, out: Path | None) -> Path:
    """Where the manifest of a folder is to be: inside it, or where --out says."""
    return folder / NAME if out is None else out


def build(
    folder: Path,
    out: Path | None = None,
    workers: int = 0,
    check: str = "header",
    update: bool = False,
    leave_out_bad: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Indexed:
    """Measures the audio files below a folder and writes its manifest.

    Results are noted as they come in, beside the manifest; a killed run goes on with the files that are not among them.

    Args:
        folder: of the corpus.
        out: the manifest; None means ``manifest.kdse`` in the folder.
        workers: processes; 0 means none besides this one.
        check: "header" or "decode" (see `measure`).
        update: with a manifest already there, measure only files that are new or have another size or time; if it is
            damaged, or of another version of kdse, all of them.
        leave_out_bad: write the manifest without files that cannot be used.
        progress: is told how many files of how many are done.

    Raises:
        ValueError: if the folder holds no audio or bad files, the manifest is there already (without ``update``) or
            being made, or cannot be written, or another manifest would hide it or be hidden by it.
    """
    if check not in CHECKS:
        raise UserError(f"--check {check}: use one of {', '.join(CHECKS)}")
    if workers < 0:
        raise UserError(f"--workers {workers}: must be at least 0")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    manifest = manifest_of(folder, out)
    if manifest.exists() and not update:
        raise UserError(f"{manifest}: is there already; --update measures what is new or has changed")
    refuse_rivals(folder, manifest)
    with _alone(manifest, out):
        there = list_audio(folder)
        paths, passed_over = there.files, there.left_out()
        if not paths:
            raise UserError(f"{folder}: holds no audio files{passed_over and f' ({passed_over})'}")
        old, replaced = _earlier(manifest)
        known: dict[str, Measured] = {}
        if old is not None and CHECKS.index(old.check) >= CHECKS.index(check):
            check = old.check  # what was looked at closely stays so
            known = {row.path: row for row in old.rows()}
        journal = Journal(manifest.with_name(f".{manifest.name}.journal"), check)
        known |= journal.read()
        rows = [row for path in paths if (row := known.get(path)) and _unchanged(folder, row)]
        fresh = {row.path for row in rows}
        missing = [path for path in paths if path not in fresh]
        progress(len(rows), len(paths))
        for batch in _measured(str(folder), missing, check, workers):
            journal.note(batch)
            rows += batch
            progress(len(rows), len(paths))
        bad = sorted((row.path, row.fault) for row in rows if row.fault)
        report = manifest.with_name(f"{manifest.stem}.bad.txt")
        if bad:
            write_text(report, "".join(f"{printable(path)}\t{fault}\n" for path, fault in bad))
            if not leave_out_bad:
                raise UserError(
                    f"{folder}: {len(bad)} of {len(paths)} files cannot be used; {report} names them; mend or remove "
                    "them and run this again (nothing else is measured twice), or leave them out by --leave-out-bad"
                )
            if len(bad) == len(rows):
                raise UserError(f"{folder}: none of its {len(rows)} audio files can be used; {report} says why")
        good = (row for row in rows if not row.fault)
        write(manifest, os.path.abspath(folder), check, good, [path for path, _ in bad])
        journal.remove()
        if not bad:
            report.unlink(missing_ok=True)
    gone = 0 if old is None else len(set(old.paths).difference(paths))
    return Indexed(manifest, len(rows) - len(bad), len(fresh), len(missing), len(bad), gone, replaced, passed_over)


@contextmanager
def _alone(manifest: Path, out: Path | None) -> Iterator[None]:
    """Holds the lock of a manifest; an error of the disk becomes one line."""
    lock = manifest.with_name(f".{manifest.name}.lock")
    try:
        manifest.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise UserError(f"{manifest}: another process is making it (it holds {lock})") from None
    except OSError as error:
        where = "choose a place for the manifest with --out FILE" if out is None else "choose another --out"
        raise UserError(f"{manifest}: cannot be written here ({error.strerror or error}); {where}") from None


def _earlier(manifest: Path) -> tuple[Manifest | None, str]:
    """The manifest that is to be updated, or why it cannot be used."""
    if not manifest.exists():
        return None, ""
    try:
        return load(manifest), ""
    except ValueError as error:
        return None, str(error)


def _unchanged(folder: Path, row: Measured) -> bool:
    try:
        status = os.stat(folder / row.path)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (row.size, row.mtime)


def _measured(root: str, paths: list[str], check: str, workers: int) -> Iterator[list[Measured]]:
    """Batches of results, as they come in."""
    jobs = [(root, paths[first : first + BATCH], check) for first in range(0, len(paths), BATCH)]
    return as_they_come(_measure_all, jobs, workers if len(jobs) > 1 else 0)


def _measure_all(root: str, paths: list[str], check: str) -> list[Measured]:
    return [measure(root, path, check) for path in paths]


class Journal:
    """Results of an unfinished run, a line of JSON each; a line that a kill cut off does not count.

    Args:
        path: of the file.
        check: how files are looked at; results of a lesser look are not used.
    """

    def __init__(self, path: Path, check: str) -> None:
        self.path, self.check = path, check

    def read(self) -> dict[str, Measured]:
        """What is noted; of a file that was measured twice, the last."""
        found = {}
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else ():
            try:
                check, *fields = json.loads(line)
                row, close_enough = Measured(*fields), CHECKS.index(check) >= CHECKS.index(self.check)
            except (ValueError, TypeError):  # empty, cut off, or of another version of kdse
                continue
            if close_enough and line.endswith(b"\n"):
                found[row.path] = row
        return found

    def note(self, rows: Iterable[Measured]) -> None:
        """Adds results, after the end of a line that a kill may have left unfinished."""
        with open(self.path, "ab") as file:
            file.write(b"\n" + b"".join(json.dumps([self.check, *row]).encode() + b"\n" for row in rows))

    def remove(self) -> None:
        """Forgets them: they are in the manifest."""
        self.path.unlink(missing_ok=True)
