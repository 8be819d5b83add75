"""Shards: large files that hold many recordings, in LitData's chunk format, on a disk or in object storage.

LitData's own dataset streams in its own order; ours asks for recordings by number, because an item is a pure function
of (seed, epoch, index). Of LitData this uses the chunks (`kdse corpus pack` writes them with its writer,
`litdata.StreamingDataset` reads them) and its downloaders: their schemes, credentials and retries.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from filelock import FileLock

from kdse.audio.opening import AudioError, reason
from kdse.data.corpus.manifest import Manifest, load
from kdse.data.corpus.manifest_lookup import INDEX, is_index
from kdse.errors import UserError
from kdse.internals.litdata import ITEM_HEADER, WORD, downloader
from kdse.machine.cache import cache_root
from kdse.machine.files import write_bytes

#: LitData's; "r2" is Cloudflare's.
SCHEMES = ("s3://", "gs://", "azure://", "r2://")
SCRATCH = "kdse-shards-"
EXTRA = "pip install 'kdse[shards]'"


def is_remote(place: object) -> bool:
    """Whether a folder is one of object storage."""
    return str(place).startswith(SCHEMES)


@dataclass
class Shards:
    """The shards of one folder or URL (``place``), and what they hold.

    manifest: of the recordings, in the order in which they are packed.
    firsts: number of the first recording of each shard, then the number of recordings, ``[shards + 1]``.
    names, sizes: of the shards, the latter in bytes.
    cache: folder that keeps shards of object storage as they are used; None keeps nothing and reads by recording.
    """

    place: str
    manifest: Manifest
    firsts: np.ndarray
    names: list[str]
    sizes: list[int]
    cache: str | Path | None = None
    _source: Remote | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}  # a connection belongs to one process

    def open(self, index: int) -> BinaryIO:
        """A recording as it was packed, encoded; an AudioError names a shard that cannot be read, or is another."""
        shard = int(np.searchsorted(self.firsts, index, "right")) - 1
        first, after = int(self.firsts[shard]), int(self.firsts[shard + 1])
        before = int(self.manifest.sizes[first:index].sum())
        start = WORD * (after - first + 2) + before + ITEM_HEADER * (index - first + 1)
        size = int(self.manifest.sizes[index])
        if not is_remote(self.place):
            return self._window(Path(self.place) / self.names[shard], shard, start, size)
        if self.cache is None:
            return io.BytesIO(self._fetch(shard, start, size))
        kept = Path(self.cache) / self.names[shard]
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(kept.with_name(f".{kept.name}.lock")):  # data workers of all ranks want the same ones
                if not kept.is_file():
                    write_bytes(kept, self._fetch(shard, 0, self.sizes[shard]))
        return self._window(kept, shard, start, size)

    def _window(self, file: Path, shard: int, start: int, size: int) -> BinaryIO:
        try:
            source = open(file, "rb")  # noqa: SIM115 (the window closes it)
        except OSError as error:
            raise AudioError(f"{file}: the shard cannot be opened ({error.strerror or error})") from None
        found = os.fstat(source.fileno()).st_size
        if found != self.sizes[shard]:
            source.close()
            raise AudioError(f"{file}: the shard has {found} bytes, not {self.sizes[shard]}; copy or pack it again")
        return cast(BinaryIO, io.BufferedReader(Window(source, start, size), 1 << 16))

    def _fetch(self, shard: int, start: int, size: int) -> bytes:
        if self._source is None:
            self._source = Remote(self.place)
        return self._source.read(self.names[shard], start, size)


class Window(io.RawIOBase):
    """The bytes ``[start, start + size)`` of an open file, as a file."""

    def __init__(self, source: BinaryIO, start: int, size: int) -> None:
        self._source, self._start, self._size, self._at = source, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        self._source.seek(self._start + self._at)
        count = self._source.readinto(memoryview(buffer)[:count])  # type: ignore[attr-defined]  # (binary files have it)
        self._at += count
        return cast(int, count)

    def close(self) -> None:
        self._source.close()
        super().close()


class Remote:
    """A folder of object storage, read through LitData's downloaders.

    Credentials and endpoints are those of the environment (for s3: AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL).
    A ValueError says that LitData is not installed, or has no client for this storage.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._scratch: str | None = None
        try:
            self._downloader, self._ranges = downloader(self.url)
        except ImportError as error:
            raise UserError(f"{url}: shards in object storage need LitData ({EXTRA}): {error}") from None

    def read(self, name: str, start: int, size: int) -> bytes:
        """Bytes ``[start, start + size)`` of a file; an AudioError names one that cannot be read."""
        where = f"{self.url}/{name}"
        try:
            return self._downloader.download_bytes(where, start, size, "" if self._ranges else self._kept(name))
        except Exception as error:  # each client has its own
            raise AudioError(f"{where}: cannot be read ({reason(error)})") from None

    def index(self) -> dict[str, Any]:
        """LitData's index of the folder; a ValueError names a folder that has none."""
        try:
            with tempfile.TemporaryDirectory(prefix=SCRATCH) as scratch:
                local = Path(scratch) / INDEX
                self._downloader.download_file(f"{self.url}/{INDEX}", str(local))
                return cast(dict[str, Any], json.loads(local.read_bytes()))
        except Exception as error:
            raise UserError(f"{self.url}: holds no packed corpus that can be read ({reason(error)})") from None

    def _kept(self, name: str) -> str:
        """Where a whole file goes: a folder that goes with this object, or with the process, a data worker's too."""
        if self._scratch is None:
            self._scratch = tempfile.mkdtemp(prefix=SCRATCH)
            Finalize(self, shutil.rmtree, (self._scratch, True), exitpriority=0)
        return os.path.join(self._scratch, name)


def open_shards(place: str | Path, cache: str | Path | None = None) -> Shards:
    """The shards of a folder or URL, found by LitData's index.json (``cache``: see `Shards`).

    Raises:
        ValueError: if there are none, or none that kdse packed, or the manifest of what they hold is damaged.
    """
    remote = Remote(str(place)) if is_remote(place) else None
    try:
        index = json.loads((Path(place) / INDEX).read_bytes()) if remote is None else remote.index()
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{place}/{INDEX}: cannot be read ({error})") from None
    own = index.get("kdse") if is_index(index) else None
    if not isinstance(own, Mapping) or not isinstance(own.get("manifest"), str):
        raise UserError(f"{place}: holds shards that kdse did not pack; make them by `kdse corpus pack FOLDER OUT`")
    manifest = Path(place) / own["manifest"] if remote is None else _kept_manifest(remote, own)
    try:
        listed = load(manifest)
    except ValueError:
        mend = "copy or pack the corpus again" if remote is None else "remove it, it is fetched again"
        raise UserError(f"{manifest}: the manifest of the shards in {place} is damaged; {mend}") from None
    chunks = index["chunks"]
    firsts = np.cumsum([0, *(chunk["chunk_size"] for chunk in chunks)])
    if firsts[-1] != len(listed):
        raise UserError(f"{place}: {INDEX} and {manifest} do not belong together; copy or pack the corpus again")
    names, sizes = ([chunk[key] for chunk in chunks] for key in ("filename", "chunk_bytes"))
    for name in names:
        if Path(name).name != name:  # (what is kept of it, or read, would be a file elsewhere)
            raise UserError(f"{place}: {INDEX} names a shard {name!r:.80} outside its folder; it is damaged, or a trap")
    if remote is None:
        return Shards(str(place), listed, firsts, names, sizes)
    if cache is not None:
        name = remote.url.split("://", 1)[1].replace("/", "_")
        cache = str(Path(cache).expanduser() / name / own["sha256"][:16])
    return Shards(remote.url, listed, firsts, names, sizes, cache, remote)


def _kept_manifest(remote: Remote, own: Mapping[str, Any]) -> Path:
    """The manifest of a remote folder, fetched once a machine: its name has its checksum."""
    local = cache_root() / "manifests" / f"{own['sha256']}.kdse"
    if not local.is_file():
        content = remote.read(own["manifest"], 0, own["bytes"])
        if hashlib.sha256(content).hexdigest() != own["sha256"]:
            raise UserError(f"{remote.url}/{own['manifest']}: is damaged; pack or copy the corpus again")
        write_bytes(local, content)
    return local
