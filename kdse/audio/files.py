"""Reads and writes audio files: mono float32 at a stated rate, errors that name the file."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdse.audio.listing import EXTENSIONS, NOT_UTF8, printable, reason
from kdse.errors import UserError
from kdse.machine.files import write_bytes
from kdse.machine.packages import required

__all__ = ["EXTENSIONS", "AudioError", "AudioInfo", "info", "read", "write"]

#: torchaudio's defaults, stated because the context of a resampled part follows from them.
FILTER_WIDTH = 6
FILTER_ROLLOFF = 0.99


class AudioError(UserError):
    """A file that cannot be used."""


class AudioInfo(NamedTuple):
    """Length in samples, rate in Hz and channels of a file."""

    frames: int
    sample_rate_hz: int
    channels: int


def info(path: str | Path) -> AudioInfo:
    """Length, rate and channels from the header; an AudioError names a file that cannot be read."""
    soundfile = required("soundfile")
    with _named(path):
        about = soundfile.info(str(path))
    return AudioInfo(about.frames, about.samplerate, about.channels)


def read(
    path: str | Path, sample_rate_hz: int, start: int = 0, stop: int | None = None, content: BinaryIO | None = None
) -> Tensor:
    """Samples ``[start, stop)`` as mono float32 ``[N]`` at ``sample_rate_hz``.

    Several channels are averaged; another rate is resampled (start and stop count samples at ``sample_rate_hz``).
    Only the asked part is decoded, with as much around it as the resampling filter reaches, so that a part equals
    that part of the whole file. With ``content`` the audio comes from there, and ``path`` only names it in errors.

    Raises:
        AudioError: naming the file, if it is unreadable, cut short, or holds NaN or infinite samples.
    """
    soundfile = required("soundfile")
    with _named(path), soundfile.SoundFile(str(path) if content is None else content) as file:
        rate = file.samplerate
        first, last, skipped = _span(rate, sample_rate_hz, start, stop)
        last = file.frames if last is None else min(file.frames, last)
        file.seek(min(first, file.frames))
        data = file.read(max(0, last - first), dtype="float32", always_2d=True)
    if len(data) < last - first:
        raise AudioError(f"{path}: cut short: {len(data)} of {last - first} samples could be read")
    wave = torch.from_numpy(np.ascontiguousarray(data[:, 0] if data.shape[1] == 1 else data.mean(1, dtype=np.float32)))
    if not torch.isfinite(wave).all():
        raise AudioError(f"{path}: holds NaN or infinite samples")
    if rate != sample_rate_hz:
        resample = required("torchaudio.functional", "resample")
        wave = resample(wave, rate, sample_rate_hz, lowpass_filter_width=FILTER_WIDTH, rolloff=FILTER_ROLLOFF)
        wave = wave[skipped:]
    return wave if stop is None else wave[: stop - start]


def write(path: str | Path, wave: Tensor, sample_rate_hz: int, subtype: str | None = None) -> None:
    """Writes ``[N]`` or ``[C, N]``, as `write_bytes` does; the extension chooses the format."""
    data, encoded = wave.detach().cpu().numpy(), io.BytesIO()
    settings = {"subtype": subtype, "format": Path(path).suffix[1:]}
    required("soundfile").write(encoded, data.T if data.ndim == 2 else data, sample_rate_hz, **settings)
    write_bytes(path, encoded.getvalue())


def _span(rate: int, sample_rate_hz: int, start: int, stop: int | None) -> tuple[int, int | None, int]:
    """Which samples to decode, from and to, and how many of them to drop after resampling.

    Cut where samples of both rates coincide: every ``down`` of the file and every ``up`` of the result.
    """
    if rate == sample_rate_hz:
        return start, stop, 0
    divisor = math.gcd(rate, sample_rate_hz)
    up, down = sample_rate_hz // divisor, rate // divisor
    reach = math.ceil(FILTER_WIDTH * down / (min(up, down) * FILTER_ROLLOFF))
    blocks = reach // down + 1
    first = max(0, start // up - blocks)
    last = None if stop is None else (-(-stop // up) + blocks) * down
    return first * down, last, start - first * up


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turns what soundfile raises into an error that names the file."""
    try:
        yield
    except UnicodeError:
        raise AudioError(f"{printable(str(path))}: {NOT_UTF8}") from None
    except (RuntimeError, OSError, TypeError) as error:
        raise AudioError(f"{path}: not readable as audio ({reason(error)})") from None
