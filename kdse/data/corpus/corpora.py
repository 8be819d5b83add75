"""A corpus: audio files below one folder and how long each is, from a manifest, the files themselves, or shards."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdse.audio.files import info, read
from kdse.audio.listing import list_audio
from kdse.audio.opening import AudioError
from kdse.data.corpus.decoded import UNIT, Decoded, decode
from kdse.data.corpus.manifest import Manifest, load
from kdse.data.corpus.manifest_lookup import is_packed, nearest
from kdse.data.corpus.shards import Shards, is_remote, open_shards
from kdse.errors import UserError
from kdse.machine.progress import say

log = logging.getLogger(__name__)


class Crop(NamedTuple):
    """Samples ``[start, stop)`` of the recording number ``place``."""

    place: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Corpus:
    """Audio files under one folder, sorted by relative path (part by part).

    root: the folder, or the folder or URL of shards.
    paths: relative paths, POSIX style.
    frames: samples of each file at its own rate. rates: sample rate of each file in Hz.
    manifest: where these are from, if not from the files themselves; then they are views of it, not lists.
    shards: what holds the recordings instead of files.
    decoded: the recordings at one sample rate, where they have been decoded.
    """

    root: str
    paths: Sequence[str]
    frames: Sequence[int] | np.ndarray
    rates: Sequence[int] | np.ndarray
    manifest: Manifest | None = None
    shards: Shards | None = None
    decoded: Decoded | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __reduce__(self) -> tuple[Callable[..., Corpus], tuple[object, ...]]:
        if self.manifest is not None:
            return of_manifest, (self.root, self.manifest, self.shards, self.decoded)
        return type(self), (self.root, self.paths, self.frames, self.rates, None, None, self.decoded)

    def file(self, index: int) -> Path:
        """Path of a file; of a recording in shards, what errors call it."""
        return Path(self.root) / self.paths[index]

    def samples(self, index: int, sample_rate_hz: int) -> int:
        """Length of a file in samples at ``sample_rate_hz``."""
        return int(self.frames[index]) * sample_rate_hz // int(self.rates[index])

    def lengths(self, sample_rate_hz: int) -> np.ndarray:
        """Lengths of all files in samples at ``sample_rate_hz``, ``[len(self)]`` int64."""
        return np.asarray(self.frames, np.int64) * sample_rate_hz // np.asarray(self.rates, np.int64)

    def check(self, index: int) -> None:
        """Raises an AudioError if a file is not the one that the manifest describes."""
        if self.manifest is not None:
            check_listed(self.file(index), int(self.manifest.sizes[index]), str(self.manifest.file))

    def read(self, index: int, sample_rate_hz: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Samples ``[start, stop)`` of a file as mono float32 ``[N]`` (see `kdse.audio.files.read`).

        An AudioError names a file that cannot be used, or that is not the one that the manifest describes.
        """
        return self._part(index, sample_rate_hz, start, stop).float() * UNIT

    def crops(self, crops: Sequence[Sequence[Crop]], sample_rate_hz: int) -> Tensor:
        """Items of as many samples each, joined from crops: ``[B, N]`` in units of 1/32768, int16 or float32.

        On the device of the recordings, which is not waited for.
        """
        parts = [self._part(place, sample_rate_hz, start, stop) for item in crops for place, start, stop in item]
        return torch.cat(parts).unflatten(0, (len(crops), -1))

    def _part(self, index: int, sample_rate_hz: int, start: int, stop: int | None) -> Tensor:
        """As `read`, in units of 1/32768."""
        decoded = self.decoded if self.decoded and self.decoded.sample_rate_hz == sample_rate_hz else None
        if decoded is not None and (part := decoded.part(index, start, stop)) is not None:
            return part
        if self.shards is not None:
            with self.shards.open(index) as content:
                wave = read(f"{self.root}/{self.paths[index]}", sample_rate_hz, start, stop, content)
        else:
            self.check(index)
            wave = read(self.file(index), sample_rate_hz, start, stop)
        wave = wave / UNIT
        return wave if self.decoded is None else wave.to(self.decoded.samples.device)

    def decode(self, sample_rate_hz: int, cache_dir: str | Path | None, most_gb: float) -> Corpus:
        """These recordings decoded from the cache (see `kdse.data.corpus.decoded.decode`), if they can be kept there.

        Those in object storage are not: a copy of all of them is not what a user of it wants.
        """
        lengths = self.lengths(sample_rate_hz)
        gigabytes = 2e-9 * float(lengths.sum())
        if most_gb == 0 or is_remote(self.root):
            return self
        root = self.root or os.path.dirname(self.paths[0])
        if gigabytes > most_gb:
            say(f"{root}: decoded it takes {gigabytes:.1f} GB, more than --data.cache_gb={most_gb:g}: files are read")
            return self

        holders: Sequence[str] = self.paths if self.shards is None else self.shards.names

        def stamps_of(some: range) -> list[tuple[int, int]]:
            found = (os.stat(os.path.join(self.root, holders[place])) for place in some)
            return [(status.st_size, status.st_mtime_ns) for status in found]

        try:
            with ThreadPoolExecutor(8) as pool:
                parts = [range(len(holders))[first : first + 1000] for first in range(0, len(holders), 1000)]
                stamps = list(itertools.chain.from_iterable(pool.map(stamps_of, parts)))
        except OSError:  # (reading the file says what is wrong)
            return self
        listed = self.manifest.sizes.tolist() if self.manifest is not None and self.shards is None else None
        if listed is not None and [size for size, _ in stamps] != listed:
            return self  # (the same)
        content = [self.fingerprint, *stamps]

        read_whole = partial(self.read, sample_rate_hz=sample_rate_hz)
        return replace(self, decoded=decode(root, content, read_whole, lengths, sample_rate_hz, cache_dir, most_gb))

    def to(self, device: torch.device) -> Corpus:
        """The same with what is decoded in the memory of a device."""
        return replace(self, decoded=self.decoded and self.decoded.to(device))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names and lengths: what a mixture depends on besides seed, epoch and index."""
        digest = hashlib.sha256()
        frames, rates = (np.asarray(column).tolist() for column in (self.frames, self.rates))
        for path, count, rate in zip(self.paths, frames, rates, strict=True):
            digest.update(os.fsencode(f"{path}\0{count}\0{rate}\n"))
        return digest.hexdigest()


def of_manifest(root: str, manifest: Manifest, shards: Shards | None = None, decoded: Decoded | None = None) -> Corpus:
    """The files of a manifest as a corpus below ``root``, or the recordings of shards."""
    return Corpus(root, manifest.paths, manifest.frames, manifest.rates, manifest, shards, decoded)


def of_files(files: Sequence[str], samples: Sequence[int] | np.ndarray, sample_rate_hz: int) -> Corpus:
    """Files of whatever folders as a corpus; ``samples`` are their lengths at ``sample_rate_hz``."""
    return Corpus("", files, samples, np.full(len(files), sample_rate_hz))


def check_listed(file: str | Path, size: int, manifest: str) -> None:
    """Raises an AudioError if a file is not of the size in bytes that a manifest states, or is gone."""
    try:
        if (found := os.stat(file).st_size) == size:
            return
        why = f"has {found} bytes, not {size}"
    except OSError as error:
        why = f"cannot be opened ({error.strerror or error})"
    raise AudioError(f"{file}: {why}: {manifest} is out of date; run `kdse corpus index FOLDER --update` on its folder")


def scan(
    folder: str | Path,
    flag: str,
    manifest: str | Path | None = None,
    shard_cache: str | Path | None = None,
    files_only: bool = False,
) -> Corpus:
    """All audio files below a folder, hidden ones left out, or all recordings in shards.

    They are listed by the manifest in the folder or the nearest above it (see `kdse corpus index`); without one every
    file is opened, which takes long for a large corpus. Shards (see `kdse corpus pack`) hold the recordings of the
    folder that was packed, in the same order.

    Args:
        folder: where to look, recursively; or a folder or URL of shards.
        flag: the setting the folder came from ("--data.root"), for error messages.
        manifest: one that lies somewhere else.
        shard_cache: folder that keeps shards of object storage.
        files_only: refuses shards, for a caller that needs paths.

    Raises:
        ValueError: if the folder is missing or holds no audio, a file is unreadable or empty, a manifest is damaged or
            describes another folder, or a setting does not apply.
    """
    root, remote = Path(folder), is_remote(folder)
    in_shards = remote or is_packed(root)
    if files_only and in_shards:
        raise UserError(f"{flag} {folder}: shards are not read here; give the folder of audio files that was packed")
    if manifest is not None and in_shards:
        raise UserError(f"--data.manifest {manifest}: {folder} holds shards, which have their own; leave it out")
    if shard_cache is not None and not remote:
        raise UserError(f"--data.shard_cache {shard_cache}: {folder} is not in object storage; leave it out")
    if in_shards:
        shards = open_shards(folder if remote else root, shard_cache)
        return of_manifest(shards.place, shards.manifest, shards)
    if not root.is_dir():
        raise UserError(f"{flag} {root}: no such folder")
    listed = _listed(root, manifest)
    if listed is not None:
        log.info("%s %s: %d files from %s of %s", flag, root, len(listed), listed.file, listed.made)
        return of_manifest(str(root), listed)
    there = list_audio(root)
    paths, left_out = there.files, there.left_out()
    if not paths:
        raise UserError(f"{flag} {root}: holds no audio files{left_out and f' ({left_out})'}")
    if left_out:
        log.log(logging.WARNING if there.dead_links else logging.INFO, "%s %s: %s", flag, root, left_out)
    with ThreadPoolExecutor(8) as pool:
        abouts = list(pool.map(info, [root / path for path in paths]))
    return Corpus(str(root), tuple(paths), tuple(a.frames for a in abouts), tuple(a.sample_rate_hz for a in abouts))


def _listed(folder: Path, named: str | Path | None) -> Manifest | None:
    """The part of a manifest that describes a folder; None if there is none, or it lists no file there."""
    place = Path(os.path.abspath(folder))
    if named is not None:
        whole = _opened(Path(named))
        inside = os.path.relpath(os.path.realpath(place), os.path.realpath(whole.root))
        if inside.split(os.sep)[0] == "..":
            raise UserError(f"--data.manifest {named}: describes {whole.root}, which does not hold {folder}")
        if not len(part := whole.below(Path(inside).as_posix())):
            raise UserError(f"--data.manifest {named}: lists no file below {folder}; run `{whole.mend}`")
        return part
    if (file := nearest(place)) is None:
        return None
    if not len(part := _opened(file).below(place.relative_to(file.parent).as_posix())):
        log.info("%s lists no file below %s: every file is opened", file, folder)
        return None
    return part


def _opened(file: Path) -> Manifest:
    """A manifest, verified once in this process: speech, noise and rooms of every split are parts of it."""
    try:
        status = os.stat(file)
    except OSError:
        return load(file)  # says what is wrong
    return _verified(file, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _verified(file: Path, *_: int) -> Manifest:
    return load(file)


def part_of(root: str | Path, name: str) -> str | Path:
    """The folder ``name`` ("speech/train") of a corpus on disk or in object storage."""
    return f"{str(root).rstrip('/')}/{name}" if is_remote(root) else Path(root) / name


def corpus_root(flag: str | None) -> str | Path:
    """The corpus of ``--data.root`` or the environment variable KDSE_CORPUS, folder or URL; a ValueError without."""
    value = flag or os.environ.get("KDSE_CORPUS")
    if not value:
        raise UserError(
            "no corpus: give --data.root FOLDER (with speech/train, noise/train, ...) or set KDSE_CORPUS; "
            "--data=kdse.data.SyntheticCorpus needs none"
        )
    return value if is_remote(value) else Path(value)
