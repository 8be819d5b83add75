"""A manifest: what is known of the audio files below a folder, in one file that starts a training in no time.

Columns of numbers and one block of names, mapped into memory: a million files take some 100 MB of the disk's cache,
shared by all processes of a machine, and next to nothing of their own. The layout is ours, because the containers at
hand are read whole (npz), have no checksum (npy, csv) or need another library (Parquet, SQLite through objects):

    "kdse manifest 1\\n", 8 bytes: length of the header, 32 bytes: SHA-256 of the header,
    header (JSON: root, check, left_out, columns with their places, SHA-256 of the columns), columns, each at a
    multiple of 64

`kdse corpus index` writes it into the folder it describes, because it then moves with the files and no flag is needed;
a manifest of a folder that cannot be written lies anywhere and is named by `--data.manifest`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdse.audio.listing import Measured, place_key
from kdse.machine.files import write_bytes

NAME = "manifest.kdse"
MAGIC = b"kdse manifest 1\n"
FAMILY = b"kdse manifest "
ALIGNMENT = 64
BLOCK = 1 << 20
COLUMNS = {"frames": "<i8", "rates": "<i4", "channels": "<i4", "sizes": "<i8", "mtimes": "<i8", "ends": "<i8"}


class Names(Sequence[str]):
    """Relative paths as one block of bytes: a string is made when it is asked for.

    Args:
        block: names one after another, UTF-8 (`os.fsencode`).
        ends: where each ends.
        first, last: the part of them that this is.
        skip: bytes of a common folder that are left off each.
    """

    def __init__(self, block: np.ndarray, ends: np.ndarray, first: int, last: int, skip: int = 0) -> None:
        self._block, self._ends, self._first, self._last, self._skip = block, ends, first, last, skip

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(self._first, self._last)[index]
        start = int(self._ends[place - 1]) if place else 0
        return os.fsdecode(self._block[start + self._skip : int(self._ends[place])].tobytes())

    def __iter__(self) -> Iterator[str]:
        start = int(self._ends[self._first - 1]) if self._first else 0
        for first in range(self._first, self._last, 4096):
            ends = self._ends[first : min(first + 4096, self._last)].tolist()
            text, base = self._block[start : ends[-1]].tobytes(), start
            for end in ends:
                yield os.fsdecode(text[start - base + self._skip : end - base])
                start = end

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # (compared by value, as lists are)


class Manifest:
    """The files of one manifest, or of a folder in it, in the order of a corpus (see `audio_files`).

    file: of the manifest. root: the folder it describes, as it was called when it was made. check: "header" or
    "decode", how the files were looked at. digest: of the columns, SHA-256. made: when, "2026-11-21 18:05".
    paths, frames, rates, channels, sizes, mtimes: a column each; sizes in bytes, mtimes in ns.
    """

    def __init__(
        self, file: Path, header: Mapping[str, Any], body: int, first: int = 0, last: int | None = None
    ) -> None:
        self.file, self._header, self._body = file, header, body
        self.root, self.check = str(header["root"]), str(header["check"])
        self.digest = str(header["sha256"])
        self._first, self._last = first, int(header["files"]) if last is None else last
        self._prefix = ""
        self._columns = {name: self._map(name) for name in (*COLUMNS, "names")}
        self.frames, self.rates, self.channels, self.sizes, self.mtimes = (
            self._columns[name][self._first : self._last] for name in ("frames", "rates", "channels", "sizes", "mtimes")
        )
        self.paths = Names(self._columns["names"], self._columns["ends"], self._first, self._last)

    def __len__(self) -> int:
        return self._last - self._first

    def __reduce__(self) -> tuple[Callable[[], Manifest], tuple[()]]:
        """Data workers open the file again: nothing of it travels."""
        return partial(_open_part, str(self.file), self.digest, self._prefix, self._first, self._last), ()

    @property
    def made(self) -> str:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(os.stat(self.file).st_mtime))

    @property
    def left_out(self) -> list[str]:
        """Paths of bad files that are there and deliberately not listed, relative to the same folder as ``paths``."""
        names = self._header.get("left_out", [])  # not in those that an earlier kdse wrote
        return [name[len(self._prefix) :] for name in names if name.startswith(self._prefix)]

    @property
    def mend(self) -> str:
        """The command that brings it up to date."""
        return mend(self.file, self.root)

    def _map(self, name: str) -> np.ndarray:
        place, count = self._header["columns"][name]
        kind = np.dtype(COLUMNS.get(name, "u1"))
        if count == 0:
            return np.zeros(0, kind)
        return np.memmap(self.file, kind, mode="r", offset=self._body + place, shape=(count,))

    def below(self, folder: str) -> Manifest:
        """The files below a folder, their paths relative to it.

        Args:
            folder: relative to the root, POSIX style; "" for all.
        """
        if not folder:
            return self
        low, high = place_key(folder) + "\0", place_key(folder) + "\1"
        first = bisect_left(self.paths, low, key=place_key)
        last = bisect_left(self.paths, high, key=place_key)
        return self._part(folder + "/", self._first + first, self._first + last)

    def _part(self, prefix: str, first: int, last: int) -> Manifest:
        part = Manifest(self.file, self._header, self._body, first, last)
        part._prefix = prefix
        skip = len(os.fsencode(prefix))
        part.paths = Names(part._columns["names"], part._columns["ends"], first, last, skip)
        return part

    def rows(self) -> Iterator[Measured]:
        """One file after another."""
        columns = (self.frames, self.rates, self.channels, self.sizes, self.mtimes)
        numbers = (column.tolist() for column in columns)
        for path, frames, rate, channels, size, mtime in zip(self.paths, *numbers, strict=True):
            yield Measured(path, frames, rate, channels, size, mtime, "")


def mend(file: Path, root: str = "FOLDER") -> str:
    """The command that makes the manifest ``file``, of the folder ``root``, anew."""
    if file.name == NAME:
        return f"kdse corpus index {file.parent} --update"
    return f"kdse corpus index {root} --out {file} --update"


def write(file: str | Path, root: str, check: str, rows: Iterable[Measured], left_out: Sequence[str] = ()) -> None:
    """Writes a manifest, beside its name first, so that there is never half of one.

    Args:
        file: to write.
        root: the folder.
        check: how the files were looked at.
        rows: the files, in any order.
        left_out: paths of bad files that are deliberately not among them.

    Raises:
        ValueError: if it cannot be written.
    """
    files = sorted(rows, key=lambda row: place_key(row.path))
    names = [os.fsencode(row.path) for row in files]
    columns: dict[str, Sequence[int] | np.ndarray] = {
        "frames": [row.frames for row in files],
        "rates": [row.rate for row in files],
        "channels": [row.channels for row in files],
        "sizes": [row.size for row in files],
        "mtimes": [row.mtime for row in files],
        "ends": np.cumsum([len(name) for name in names], dtype=np.int64),
    }
    write_columns(file, root, check, columns, b"".join(names), left_out)


def write_columns(
    file: str | Path,
    root: str,
    check: str,
    columns: Mapping[str, Sequence[int] | np.ndarray],
    names: bytes,
    left_out: Sequence[str] = (),
) -> None:
    """Writes a manifest from its columns, sorted already; names joined, and ``ends`` where each of them ends."""
    body, places = bytearray(), {}
    for name, kind in (*COLUMNS.items(), ("names", "u1")):
        body += bytes(-len(body) % ALIGNMENT)
        values = np.frombuffer(names, "u1") if name == "names" else np.asarray(columns[name], kind)
        places[name] = (len(body), len(values))
        body += values.tobytes()
    header = {
        "root": root,
        "files": len(columns["frames"]),
        "check": check,
        "left_out": list(left_out),
        "columns": places,
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    text = json.dumps(header).encode()
    start = MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + text
    write_bytes(file, start + bytes(-len(start) % ALIGNMENT) + bytes(body))


def load(file: str | Path, verify: bool = True) -> Manifest:
    """Opens a manifest.

    Args:
        file: of `write`.
        verify: whether the columns are compared with their checksum; the header always is.

    Raises:
        ValueError: naming the file, if it is missing, damaged, or of another version of kdse.
    """
    file = Path(file)
    again = f"make it again by `{mend(file)}`, or remove it"
    try:
        with open(file, "rb") as source:
            magic = source.read(len(MAGIC))
            if magic != MAGIC:
                other = magic.startswith(FAMILY)
                version = magic[len(FAMILY) :].decode("ascii", "replace").strip()
                why = f"has version {version}, this kdse reads 1" if other else "is no manifest"
                raise ValueError(f"{file}: {why}; {again}")
            length, wanted = int.from_bytes(source.read(8), "little"), source.read(32)
            text = source.read(length) if length < 1 << 30 else b""
            if hashlib.sha256(text).digest() != wanted:
                raise ValueError(f"{file}: the manifest is damaged; {again}")
            header = json.loads(text)
            body = source.tell() + -source.tell() % ALIGNMENT
            damaged = os.fstat(source.fileno()).st_size != body + header["bytes"]
            if verify and not damaged:
                source.seek(body)
                digest = hashlib.sha256()
                while block := source.read(BLOCK):
                    digest.update(block)
                damaged = digest.hexdigest() != header["sha256"]
            if damaged:
                raise ValueError(f"{file}: the manifest is damaged; {again}")
    except OSError as error:
        raise ValueError(f"{file}: the manifest cannot be read ({error.strerror or error})") from None
    return Manifest(file, header, body)


def _open_part(file: str, digest: str, prefix: str, first: int, last: int) -> Manifest:
    whole = load(file, verify=False)
    if whole.digest != digest:
        raise ValueError(f"{file}: the manifest was replaced while it was in use; start again")
    return whole._part(prefix, first, last)
