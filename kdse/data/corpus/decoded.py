"""`Decoded`: the recordings of a corpus, decoded once into one file that every process maps into its memory.

The copy is made when it is first wanted, by whichever process comes first, and changes no value: recordings that 16
bits hold exactly (16-bit FLAC and WAV at the rate of the mixtures) take 16 bits a sample, all others (resampled,
several channels, 24 bits, MP3) float32. The file has its key, a table of the recordings, and their samples; it is named
after its key, so that it is never replaced under a process that uses it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdse.audio.opening import AudioError
from kdse.machine.cache import cache_root
from kdse.machine.locks import alone
from kdse.machine.progress import Pace, say
from kdse.machine.threads import available_cores

#: Full scale of a 16-bit sample: samples are kept, and given, in units of 1/32768.
UNIT = 2.0**-15
#: Samples of a recording that is decoded whole, at most (70 minutes at 16 kHz); a longer one is read from its file.
#: Our choice: every thread holds one as float32, 270 MB.
LONGEST = 1 << 26
VERSION = b"kdse decoded 1\n"
#: Size of the decoded copy of a folder of recordings, at most: 170 hours at 16 bits and 16 kHz. Our choice.
CACHE_GB = 20.0
#: A copy that nobody used for so long is removed when another is made. Our choice.
KEPT_DAYS = 30
_KEY_BYTES = 64  # of a SHA-256 in hexadecimal digits


class Decoded:
    """Recordings at one sample rate, as one flat tensor of int16.

    Args:
        file: where they are kept.
        key: what is expected there.
        count: of the recordings.
        sample_rate_hz: of them all.

    table: ``[count, 3]``: bytes a sample (4 for float32, which takes two places of the tensor; 0 for a recording that
        is not there), the first sample, counted in samples of that size, and the number of them.
    samples: ``[M]`` int16 in units of 1/32768, on whatever device.

    Raises:
        OSError, ValueError: if the file is not there, or damaged.
    """

    def __init__(self, file: Path, key: str, count: int, sample_rate_hz: int) -> None:
        head = _KEY_BYTES + 24 * count
        with open(file, "rb") as source:
            found, table = source.read(_KEY_BYTES), source.read(24 * count)
            size = os.fstat(source.fileno()).st_size
        if found != key.encode() or len(table) != 24 * count:
            raise ValueError(f"{file}: is damaged")
        self.file, self.key, self.sample_rate_hz = file, key, sample_rate_hz
        self.table = np.frombuffer(table, np.int64).reshape(count, 3)
        width, first, length = self.table.T
        if size < head + int((width * (first + length)).max(initial=0)):
            raise ValueError(f"{file}: is cut short")
        with warnings.catch_warnings():  # (the map cannot be written to, and is not)
            warnings.simplefilter("ignore", UserWarning)
            mapped = np.memmap(file, np.int16, "r", head) if size > head else np.zeros(0, np.int16)
            self.samples = torch.from_numpy(mapped)

    def __reduce__(self) -> tuple[Callable[..., Decoded | None], tuple[object, ...]]:
        return reopen, (self.file, self.key, len(self.table), self.sample_rate_hz)

    def part(self, index: int, start: int = 0, stop: int | None = None) -> Tensor | None:
        """Samples ``[start, stop)`` of a recording in units of 1/32768, int16 or float32; None if it is not there."""
        width, first, length = self.table[index].tolist()
        if not width:
            return None
        whole = self.samples if width == 2 else self.samples[: self.samples.numel() // 2 * 2].view(torch.float32)
        return whole[first + start : first + (length if stop is None else min(stop, length))]

    def to(self, device: torch.device | str) -> Decoded:
        """The same recordings in the memory of a device."""
        moved = object.__new__(Decoded)
        moved.__dict__.update(self.__dict__, samples=self.samples.to(device))
        return moved


def reopen(file: Path, key: str, count: int, sample_rate_hz: int) -> Decoded | None:
    """The recordings of a finished copy; None if it is gone or damaged."""
    try:
        found = Decoded(file, key, count, sample_rate_hz)
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):
        os.utime(file)
    return found


def decode(
    root: str,
    stamps: Iterable[object],
    read: Callable[[int], Tensor],
    lengths: Sequence[int] | np.ndarray,
    sample_rate_hz: int,
    cache_dir: str | Path | None,
    most_gb: float,
) -> Decoded | None:
    """The recordings of a corpus from kdse's cache, decoded first where they are not there as they are now.

    Several processes can ask at once: one decodes, the others wait. One that is killed leaves nothing that counts.
    None, with a line that says why, if the copy would be too large or cannot be written; the caller reads the files.

    Args:
        root: of the corpus.
        stamps: what tells these recordings from any others, such as paths, sizes and times of change.
        read: a recording ``[N]`` by its number.
        lengths: of the recordings in samples.
        sample_rate_hz: of ``read`` and ``lengths``.
        cache_dir: folder of the cache (see `cache_root`).
        most_gb: size of the copy at most, in GB.
    """
    digest = hashlib.sha256(VERSION)
    for stamp in (os.path.abspath(root), sample_rate_hz, *stamps):
        digest.update(os.fsencode(f"{stamp}\n"))
    key, count = digest.hexdigest(), len(lengths)
    folder = cache_root(cache_dir) / "decoded"
    file = folder / f"{key[:32]}.samples"
    if (found := reopen(file, key, count, sample_rate_hz)) is not None:
        return found
    gigabytes = 2e-9 * float(np.asarray(lengths, np.int64).sum())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(file, f"another process is decoding {root}; waiting for it"):
            if (found := reopen(file, key, count, sample_rate_hz)) is not None:
                return found
            if gigabytes > (free := 1e-9 * shutil.disk_usage(folder).free):
                raise OSError(f"{gigabytes:.1f} GB are needed there and {free:.1f} GB are free")
            say(
                f"{root}: its {count} recordings are decoded once, into {file} ({gigabytes:.2f} GB; --data.cache_dir "
                "puts them elsewhere, --data.cache_gb=0 nowhere)"
            )
            _remove_unused(folder)
            _write(file, key, root, read, lengths, most_gb)
            return reopen(file, key, count, sample_rate_hz)
    except (OSError, NotImplementedError) as error:  # (the latter: a file system without locks)
        why = getattr(error, "strerror", None) or error
        say(
            f"{root}: its files are read, which is slower: they cannot be kept decoded in {folder} ({why}); see "
            "--data.cache_dir and --data.cache_gb"
        )
        return None


def _write(
    file: Path,
    key: str,
    root: str,
    read: Callable[[int], Tensor],
    lengths: Sequence[int] | np.ndarray,
    most_gb: float,
) -> None:
    """Decodes all recordings into a file beside the final one, which gets its name when it is complete."""

    def samples(index: int) -> np.ndarray | None:
        if not 0 < lengths[index] <= LONGEST:
            return None
        try:
            wave = read(index) / UNIT
        except AudioError:  # (reading the file says what is wrong)
            return None
        short = wave.to(torch.int16)
        return (short if torch.equal(short.float(), wave) else wave).numpy()

    count, threads, pace = len(lengths), available_cores(), Pace()
    table = np.zeros((count, 3), np.int64)
    head, place = _KEY_BYTES + table.nbytes, 0
    partial = file.with_name(f".{file.name}.partial")
    try:
        with open(partial, "wb") as out, ThreadPoolExecutor(threads) as pool:
            out.seek(head)
            for first in range(0, count, 4 * threads):  # (so many wait in memory at most)
                batch = range(first, min(count, first + 4 * threads))
                for index, values in zip(batch, pool.map(samples, batch), strict=True):
                    if values is None:
                        continue
                    table[index] = values.itemsize, place // values.itemsize, len(values)
                    content = values.tobytes() + bytes(values.nbytes % 4)  # the next may be float32
                    place += out.write(content)
                    if place > 1e9 * most_gb:
                        raise OSError(f"they take more than --data.cache_gb={most_gb:g}")
                    if pace.due():
                        say(f"{root}: {index + 1} of {count} recordings are decoded")
            out.seek(0)
            out.write(key.encode() + table.tobytes())
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    """Removes copies, locks and leftovers that nobody touched for `KEPT_DAYS`; other files there are the user's."""
    for path in [*folder.glob("*.samples"), *folder.glob("*.samples.lock"), *folder.glob(".*.samples.partial")]:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - KEPT_DAYS * 86400:
                path.unlink()
