"""A manifest: the list of the audio files below a folder with their lengths, mapped into memory.

Columns of numbers and one block of names. A million files take some 100 MB of the disk's cache, which all processes of
a machine share, and are ready in 0.1 to 0.2 s. `kdse corpus index` writes it into the folder it describes, so that it
moves with the files and needs no flag; that of a read-only folder lies anywhere, for `--data.manifest`. The file:

    "kdse manifest 1\\n", 8 bytes: length of the header, 32 bytes: SHA-256 of the header,
    header (JSON: root, check, left_out, columns with their places, SHA-256 of the columns), columns, each at a
    multiple of 64

The layout is ours: an Arrow table has no checksum, and importing pyarrow alone takes as long as opening a manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from kdse.audio.listing import Measured, place_key
from kdse.errors import UserError
from kdse.machine.files import write_bytes

NAME = "manifest.kdse"
MAGIC = b"kdse manifest 1\n"
FAMILY = b"kdse manifest "
ALIGNMENT = 64
#: ``names`` holds the relative paths one after another, UTF-8 (`os.fsencode`); ``ends`` where each of them ends.
COLUMNS = {
    "frames": "<i8", "rates": "<i4", "channels": "<i4", "sizes": "<i8", "mtimes": "<i8", "ends": "<i8", "names": "u1",
}  # fmt: skip


class Names(Sequence[str]):
    """Relative paths number ``first`` to ``last`` of a block of bytes: each string is made when it is asked for.

    ``ends`` says where each ends in the block ``[bytes]``; the first ``skip`` bytes of each, a folder, are left off.
    """

    def __init__(self, block: np.ndarray, ends: np.ndarray, first: int, last: int, skip: int) -> None:
        self._block, self._ends, self._first, self._last, self._skip = block, ends, first, last, skip

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(self._first, self._last)[index]
        return os.fsdecode(self._block[self._start(place) + self._skip : int(self._ends[place])].tobytes())

    def __iter__(self) -> Iterator[str]:
        for first in range(self._first, self._last, 4096):
            ends = self._ends[first : min(first + 4096, self._last)].tolist()
            start = base = self._start(first)
            text = self._block[base : ends[-1]].tobytes()
            for end in ends:
                yield os.fsdecode(text[start - base + self._skip : end - base])
                start = end

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # (compared by value, as lists are)

    def _start(self, place: int) -> int:
        return int(self._ends[place - 1]) if place else 0


class Manifest:
    """The files of one manifest, or of a folder in it, in the order of a corpus (see `audio_files`).

    file: of the manifest. root: the folder it describes, as it was called when it was made. check: "header" or
    "decode", how the files were looked at. digest: of the columns, SHA-256.
    paths, frames, rates, channels, sizes, mtimes: a column each; sizes in bytes, mtimes in ns.

    ``columns`` are those of the whole file; of a part, ``folder`` is its path with a slash at its end, and ``first`` to
    ``last`` its rows.
    """

    def __init__(
        self, file: Path, header: Mapping[str, Any], columns: dict[str, np.ndarray], folder: str, first: int, last: int
    ) -> None:
        self.file, self._header, self._columns = file, header, columns
        self._folder, self._first, self._last = folder, first, last
        self.root, self.check, self.digest = str(header["root"]), str(header["check"]), str(header["sha256"])
        self.frames, self.rates, self.channels, self.sizes, self.mtimes = (
            columns[name][first:last] for name in ("frames", "rates", "channels", "sizes", "mtimes")
        )
        self.paths = Names(columns["names"], columns["ends"], first, last, len(os.fsencode(folder)))

    def __len__(self) -> int:
        return self._last - self._first

    def __reduce__(self) -> tuple[Callable[..., Manifest], tuple[object, ...]]:
        """Data workers open the file again: nothing of it travels."""
        return _open_part, (str(self.file), self.digest, self._folder, self._first, self._last)

    @property
    def made(self) -> str:
        """When it was written: "2026-11-21 18:05"."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(os.stat(self.file).st_mtime))

    @property
    def left_out(self) -> list[str]:
        """Paths of bad files that are there and deliberately not listed, relative to the same folder as ``paths``."""
        names = self._header.get("left_out", [])  # not in those that an earlier kdse wrote
        return [name.removeprefix(self._folder) for name in names if name.startswith(self._folder)]

    @property
    def mend(self) -> str:
        """The command that brings it up to date."""
        return mend(self.file, self.root)

    def below(self, folder: str) -> Manifest:
        """The files below a folder of the root (POSIX style; "." for all), their paths relative to it."""
        if folder == ".":
            return self
        first, last = (
            self._first + bisect_left(self.paths, place_key(folder) + end, key=place_key) for end in ("\0", "\1")
        )
        return Manifest(self.file, self._header, self._columns, f"{self._folder}{folder}/", first, last)

    def rows(self) -> Iterator[Measured]:
        """One file after another."""
        columns = (self.frames, self.rates, self.channels, self.sizes, self.mtimes)
        return map(Measured, self.paths, *(column.tolist() for column in columns), repeat(""))


def mend(file: Path, root: str = "FOLDER") -> str:
    """The command that makes the manifest ``file``, of the folder ``root``, anew."""
    if file.name == NAME:
        return f"kdse corpus index {file.parent} --update"
    return f"kdse corpus index {root} --out {file} --update"


def write(file: str | Path, root: str, check: str, rows: Iterable[Measured], left_out: Sequence[str] = ()) -> None:
    """Writes a manifest in one step: a reader never sees half of one, and a ValueError says why there is none.

    root, check: as of `Manifest`. rows: the files, in any order. left_out: paths of bad files that are deliberately
    not among them.
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
    """Writes a manifest from its columns, sorted already; ``names`` and ``ends`` as in `COLUMNS`."""
    body, places = bytearray(), {}
    for name, kind in COLUMNS.items():
        body += bytes(-len(body) % ALIGNMENT)
        values = np.frombuffer(names, kind) if name == "names" else np.asarray(columns[name], kind)
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
    """Opens a manifest; with ``verify`` the columns are compared with their checksum, the header always is.

    Raises:
        ValueError: naming the file, if it is missing, damaged, or of another version of kdse.
    """
    file = Path(file)

    def refusal(why: str) -> UserError:
        return UserError(f"{file}: {why}; make it again by `{mend(file)}`, or remove it")

    try:
        with open(file, "rb") as source:
            magic = source.read(len(MAGIC))
            if magic != MAGIC and magic.startswith(FAMILY):
                version = magic[len(FAMILY) :].decode("ascii", "replace").strip()
                raise refusal(f"has version {version}, this kdse reads 1")
            if magic != MAGIC:
                raise refusal("is no manifest")
            length, wanted = int.from_bytes(source.read(8), "little"), source.read(32)
            text = source.read(length) if length < 1 << 30 else b""
            if hashlib.sha256(text).digest() != wanted:
                raise refusal("the manifest is damaged")
            header = json.loads(text)
            body = source.tell() + -source.tell() % ALIGNMENT
            damaged = os.fstat(source.fileno()).st_size != body + header["bytes"]
            if verify and not damaged:
                source.seek(body)
                damaged = hashlib.file_digest(source, "sha256").hexdigest() != header["sha256"]
            if damaged:
                raise refusal("the manifest is damaged")
    except OSError as error:
        raise UserError(f"{file}: the manifest cannot be read ({error.strerror or error})") from None
    content = np.memmap(file, mode="r")
    columns: dict[str, np.ndarray] = {}
    for name, kind in COLUMNS.items():
        place, count = header["columns"][name]
        start = body + place
        columns[name] = content[start : start + count * np.dtype(kind).itemsize].view(kind)
    return Manifest(file, header, columns, "", 0, int(header["files"]))


def _open_part(file: str, digest: str, folder: str, first: int, last: int) -> Manifest:
    whole = load(file, verify=False)
    if whole.digest != digest:
        raise UserError(f"{file}: the manifest was replaced while it was in use; start again")
    return Manifest(whole.file, whole._header, whole._columns, folder, first, last)
