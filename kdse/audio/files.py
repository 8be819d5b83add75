"""Reads and writes audio files: mono float32 at a stated rate, errors that name the file."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdse.audio.opening import AudioError, blocks, open_audio
from kdse.audio.resampling import HALF_WIDTH, ResampleStream
from kdse.machine.packages import required

__all__ = ["AudioError", "AudioInfo", "info", "read", "write"]

#: torchaudio's defaults, stated because the context of a resampled part follows from them.
FILTER_WIDTH = 6
FILTER_ROLLOFF = 0.99
#: torchaudio keeps a filter for every phase, and works through all of them for each sample: numbers in them at most.
#: All usual rates stay below (44.1 kHz to 16 kHz: 76,000); 16,001 Hz would take 256 million, 2 GB.
MOST_FILTER_VALUES = 1_000_000


class AudioInfo(NamedTuple):
    """Length in samples, rate in Hz and channels of a file."""

    frames: int
    sample_rate_hz: int
    channels: int


def info(path: str | Path) -> AudioInfo:
    """Length, rate and channels from the header; an AudioError names a file that cannot be used (see `open_audio`)."""
    with open_audio(path) as about:
        return AudioInfo(about.frames, about.samplerate, about.channels)


def read(
    path: str | Path, sample_rate_hz: int, start: int = 0, stop: int | None = None, content: BinaryIO | None = None
) -> Tensor:
    """Samples ``[start, stop)`` as mono float32 ``[N]`` at ``sample_rate_hz``.

    Several channels are averaged; another rate is resampled (start and stop count samples at ``sample_rate_hz``): by
    torchaudio, or where the two rates have so little in common that its filters would take gigabytes, by
    `ResampleStream`. Only the asked part is decoded, with as much around it as the resampling filter reaches (up to a
    second where the rates have no common divisor), so that a part equals that part of the whole file. With ``content``
    the audio comes from there, and ``path`` only names it in errors.

    Raises:
        AudioError: naming the file, if it is unreadable, cut short, or holds NaN or infinite samples.
    """
    with open_audio(path, content, whole=stop is None) as file:
        rate = file.samplerate
        first, last, skipped = _span(rate, sample_rate_hz, start, stop)
        last = file.frames if last is None else min(file.frames, last)
        file.seek(min(first, file.frames))
        pieces = (
            torch.from_numpy(
                np.ascontiguousarray(block[:, 0] if block.shape[1] == 1 else block.mean(1, dtype=np.float32))
            )
            for block in blocks(file, path, max(0, last - first))
        )
        wave = _resampled(pieces, rate, sample_rate_hz)[skipped:]
    return wave if stop is None else wave[: stop - start]


def write(path: str | Path, wave: Tensor, sample_rate_hz: int, subtype: str | None = None) -> None:
    """Writes ``[N]`` or ``[C, N]``; the extension chooses the format."""
    soundfile = required("soundfile")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    data = wave.detach().cpu().numpy()
    soundfile.write(os.fsencode(path), data.T if data.ndim == 2 else data, sample_rate_hz, subtype=subtype)


def _few_phases(rate: int, sample_rate_hz: int) -> bool:
    """Whether torchaudio's filters for these rates are small."""
    divisor = math.gcd(rate, sample_rate_hz)
    up, down = sample_rate_hz // divisor, rate // divisor
    return up * (down + 2 * math.ceil(FILTER_WIDTH * down / (min(up, down) * FILTER_ROLLOFF))) <= MOST_FILTER_VALUES


def _span(rate: int, sample_rate_hz: int, start: int, stop: int | None) -> tuple[int, int | None, int]:
    """Which samples to decode, from and to, and how many of them to drop after resampling.

    Cut where samples of both rates coincide: every ``down`` of the file and every ``up`` of the result.
    """
    if rate == sample_rate_hz:
        return start, stop, 0
    divisor = math.gcd(rate, sample_rate_hz)
    up, down = sample_rate_hz // divisor, rate // divisor
    width = FILTER_WIDTH / FILTER_ROLLOFF if _few_phases(rate, sample_rate_hz) else HALF_WIDTH
    blocks = math.ceil(width * down / min(up, down)) // down + 1
    first = max(0, start // up - blocks)
    last = None if stop is None else (-(-stop // up) + blocks) * down
    return first * down, last, start - first * up


def _resampled(pieces: Iterator[Tensor], rate: int, sample_rate_hz: int) -> Tensor:
    """The pieces of a signal ``[n]`` as one of ``[N]`` at another rate."""
    if rate != sample_rate_hz and not _few_phases(rate, sample_rate_hz):
        stream = ResampleStream(rate, sample_rate_hz)
        return torch.cat([*(stream.push(piece[None])[0] for piece in pieces), stream.flush()[0]])
    wave = torch.cat([torch.zeros(0), *pieces])
    if rate == sample_rate_hz:
        return wave
    resample = required("torchaudio.functional", "resample")
    resampled: Tensor = resample(wave, rate, sample_rate_hz, lowpass_filter_width=FILTER_WIDTH, rolloff=FILTER_ROLLOFF)
    return resampled
