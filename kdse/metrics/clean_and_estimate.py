"""`Pair`: clean speech and its estimate while they are scored, with the results that metrics share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from kdse.errors import UserError

T = TypeVar("T")


@dataclass
class Pair:
    """Clean speech and an estimate of it."""

    clean: np.ndarray  # [N], float64
    estimate: np.ndarray  # [N], float64
    sample_rate_hz: int
    files: Mapping[str, str] = field(default_factory=dict)  # model files by name, for the metrics that need one
    _kept: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``compute()``, or what it gave before under this key: PESQ is slow, and four metrics want it."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def at(self, rate_hz: int) -> Pair:
        """The pair at another sample rate (polyphase resampling), made once; itself if it has that rate."""
        return self if rate_hz == self.sample_rate_hz else self.once(rate_hz, lambda: self._resampled(rate_hz))

    def _resampled(self, rate_hz: int) -> Pair:
        from scipy.signal import resample_poly

        clean, estimate = (resample_poly(x, rate_hz, self.sample_rate_hz) for x in (self.clean, self.estimate))
        return Pair(clean, estimate, rate_hz, self.files)

    def pieces(self, longest_seconds: float) -> list[Pair]:
        """The pair cut into as few pieces as are no longer than that, of equal length (to a sample): itself, if short.

        Equal ones, so that no piece at the end is too short for a metric, and that their mean is one over time.
        """
        count = math.ceil(self.clean.size / (longest_seconds * self.sample_rate_hz))
        if count < 2:
            return [self]
        ends = [round(i * self.clean.size / count) for i in range(count + 1)]
        return self.once(
            ("pieces", count),
            lambda: [
                Pair(self.clean[start:end], self.estimate[start:end], self.sample_rate_hz, self.files)
                for start, end in itertools.pairwise(ends)
            ],
        )

    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """Windowed frames ``[T, size]`` of clean and estimate, as the code of Loizou's book cuts them, nothing padded.

        Loizou, "Speech Enhancement" (2007): 30 ms every 7.5 ms, a Hann window without zeros at its ends,
        ``0.5 (1 - cos(2 pi n / (size + 1)))`` for n = 1..size. The last whole frame is not used: that code counts
        ``floor(N / hop - size / hop)`` frames, one less than fit.

        Raises:
            ValueError: if there is no frame in so few samples.
        """
        size = int(30 * self.sample_rate_hz / 1000 + 0.5)
        hop = size // 4
        count = int(self.clean.size / hop - size / hop) if hop else 0
        if count < 1:
            raise UserError("shorter than 37.5 ms")
        window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1)))
        clean, estimate = (cut(x, size, hop)[:count] * window for x in (self.clean, self.estimate))
        return clean, estimate


def cut(signal: np.ndarray, size: int, hop: int) -> np.ndarray:
    """All whole frames ``[T, size]`` of a signal ``[N]``, without copying it."""
    return np.lib.stride_tricks.sliding_window_view(signal, size)[::hop]


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs torch on one thread, then on as many as before: sums split over threads differ in their last digits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
