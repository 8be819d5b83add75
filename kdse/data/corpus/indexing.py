"""Building the manifest of a folder: every file is measured once, by many processes, and never again after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from filelock import FileLock, Timeout

from kdse.audio.listing import CHECKS, EXTENSIONS, Measured, audio_files, measure, printable
from kdse.data.corpus.manifest import NAME, load, write
from kdse.data.corpus.manifest_lookup import refuse_rivals
from kdse.data.corpus.pool import as_they_come
from kdse.machine.files import write_text

#: Files that a process measures before it reports: what a kill can cost each process.
BATCH = 64


@dataclass(frozen=True)
class Indexed:
    """What `build` did.

    manifest: the file. files: how many it lists. kept: of them, how many were not measured again. measured: how many
    were. left_out: bad files that are not listed. gone: files that an older manifest listed and that are no more.
    replaced: why an older manifest could not be used; empty if it could, or if there was none.
    """

    manifest: Path
    files: int
    kept: int
    measured: int
    left_out: int
    gone: int
    replaced: str = ""


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
        raise ValueError(f"--check {check}: use one of {', '.join(CHECKS)}")
    if workers < 0:
        raise ValueError(f"--workers {workers}: must be at least 0")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    manifest = manifest_of(folder, out)
    if manifest.exists() and not update:
        raise ValueError(f"{manifest}: is there already; --update measures what is new or has changed")
    refuse_rivals(folder, manifest)
    try:
        manifest.parent.mkdir(parents=True, exist_ok=True)
        lock = manifest.with_name(f".{manifest.name}.lock")
        with FileLock(lock, timeout=0):
            try:
                return _build(folder, manifest, workers, check, update, leave_out_bad, progress)
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise ValueError(f"{manifest}: another process is making it (it holds {lock})") from None
    except OSError as error:
        where = "choose a place for the manifest with --out FILE" if out is None else "choose another --out"
        raise ValueError(f"{manifest}: cannot be written here ({error.strerror or error}); {where}") from None


def _build(
    folder: Path,
    manifest: Path,
    workers: int,
    check: str,
    update: bool,
    leave_out_bad: bool,
    progress: Callable[[int, int], None],
) -> Indexed:
    paths = audio_files(folder)
    if not paths:
        raise ValueError(f"{folder}: holds no audio files ({', '.join(EXTENSIONS)})")
    known: dict[str, Measured] = {}
    gone, replaced = 0, ""
    old = None
    if manifest.exists():
        try:
            old = load(manifest)
        except ValueError as error:
            replaced = str(error)
    if old is not None:
        gone = len(set(old.paths).difference(paths))
        if CHECKS.index(old.check) >= CHECKS.index(check):
            check = old.check  # what was looked at closely stays so
            known = {row.path: row for row in old.rows()}
    journal = Journal(manifest.with_name(f".{manifest.name}.journal"), check)
    noted = journal.read()
    rows = [row for path in paths if (row := noted.get(path) or known.get(path)) and _unchanged(folder, row)]
    fresh = {row.path for row in rows}
    missing = [path for path in paths if path not in fresh]
    progress(len(rows), len(paths))
    with journal:
        for batch in _measured(str(folder), missing, check, workers):
            journal.note(batch)
            rows += batch
            progress(len(rows), len(paths))
    bad = sorted((row.path, row.fault) for row in rows if row.fault)
    report = manifest.with_name(f"{manifest.stem}.bad.txt")
    if bad:
        write_text(report, "".join(f"{printable(path)}\t{fault}\n" for path, fault in bad))
        if not leave_out_bad:
            raise ValueError(
                f"{folder}: {len(bad)} of {len(paths)} files cannot be used; {report} names them; mend or remove them "
                "and run this again (nothing else is measured twice), or leave them out by --leave-out-bad"
            )
        if len(bad) == len(rows):
            raise ValueError(f"{folder}: none of its {len(rows)} audio files can be used; {report} says why")
    good = (row for row in rows if not row.fault)
    write(manifest, os.path.abspath(folder), check, good, [path for path, _ in bad])
    journal.remove()
    if not bad:
        report.unlink(missing_ok=True)
    kept = len(rows) - len(missing)
    return Indexed(manifest, len(rows) - len(bad), kept, len(missing), len(bad), gone, replaced)


def _unchanged(folder: Path, row: Measured) -> bool:
    try:
        status = os.stat(os.path.join(folder, row.path))
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (row.size, row.mtime)


def _measured(root: str, paths: list[str], check: str, workers: int) -> Iterator[list[Measured]]:
    """Batches of results, as they come in."""
    todo = iter(paths)
    jobs = ((root, batch, check) for batch in iter(lambda: list(islice(todo, BATCH)), []))
    few = len(paths) <= BATCH
    return as_they_come(_measure_all, jobs, 0 if few else workers)


def _measure_all(root: str, paths: list[str], check: str) -> list[Measured]:
    return [measure(root, path, check) for path in paths]


class Journal:
    """Results of an unfinished run, a line each; a line that was being written at a kill does not count.

    Args:
        path: of the file.
        check: how files are looked at; results of a lesser look are not used.
    """

    def __init__(self, path: Path, check: str) -> None:
        self.path, self.check = path, check

    def read(self) -> dict[str, Measured]:
        """What is noted; of a file that was measured twice, the last."""
        found = {}
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                try:
                    check, *fields = json.loads(line)
                    row, close_enough = Measured(*fields), CHECKS.index(check) >= CHECKS.index(self.check)
                except (ValueError, TypeError):  # cut off, or of another version of kdse
                    continue
                if close_enough and line.endswith(b"\n"):
                    found[row.path] = row
        return found

    def note(self, rows: Iterable[Measured]) -> None:
        """Adds results."""
        self._file.write(b"".join(json.dumps([self.check, *row]).encode() + b"\n" for row in rows))
        self._file.flush()

    def remove(self) -> None:
        """Forgets them: they are in the manifest."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        self._file = open(self.path, "ab")  # noqa: SIM115 (closed below)
        if self.path.stat().st_size:
            self._file.write(b"\n")  # ends a line that a kill left unfinished
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
