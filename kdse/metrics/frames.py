"""Frames of a signal as the spectral and segmental metrics cut them: only whole ones, nothing padded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kdse.errors import UserError


class Frames(NamedTuple):
    """Samples of a frame and between frame starts, number of frames, and the window ``[size]``."""

    size: int
    hop: int
    number: int
    window: np.ndarray


def loizou_frames(samples: int, sample_rate_hz: int) -> Frames:
    """The frames of the quality measures that come with Loizou, "Speech Enhancement" (2007): 30 ms every 7.5 ms.

    Hann window without zeros at its ends, ``0.5 (1 - cos(2 pi n / (size + 1)))`` for n = 1..size. The last whole frame
    is not used: that code counts ``floor(N / hop - size / hop)`` frames, one less than fit.

    Raises:
        ValueError: if there is no frame in so few samples.
    """
    size = int(30 * sample_rate_hz / 1000 + 0.5)
    hop = size // 4
    count = int(samples / hop - size / hop) if hop else 0
    if count < 1:
        raise UserError("shorter than 37.5 ms")
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1)))
    return Frames(size, hop, count, window)


def frames_of(signal: np.ndarray, size: int, hop: int, count: int) -> np.ndarray:
    """The first ``count`` frames ``[count, size]`` of a signal ``[N]``, without copying it."""
    return np.lib.stride_tricks.sliding_window_view(signal, size)[::hop][:count]
