"""`Pair`: clean speech and its estimate while they are scored, with the results that metrics share."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


class Pair:
    """Clean speech and an estimate of it.

    Attributes:
        clean, estimate: ``[N]`` float64.
        sample_rate_hz: of both.
        files: model files by name ("dnsmos", "squim"), for the metrics that need one.
    """

    def __init__(
        self, clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int, files: Mapping[str, str] | None = None
    ) -> None:
        self.clean, self.estimate, self.sample_rate_hz = clean, estimate, sample_rate_hz
        self.files = files or {}
        self._kept: dict[Any, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``compute()``, or what it gave before under this key: PESQ is slow, and four metrics want it."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    def at(self, rate_hz: int) -> Pair:
        """The pair at another sample rate (polyphase resampling), made once; itself if it has that rate."""
        if rate_hz == self.sample_rate_hz:
            return self
        return self.once(rate_hz, lambda: self._resampled(rate_hz))

    def _resampled(self, rate_hz: int) -> Pair:
        from scipy.signal import resample_poly

        common = math.gcd(self.sample_rate_hz, rate_hz)
        up, down = rate_hz // common, self.sample_rate_hz // common
        clean, estimate = resample_poly(self.clean, up, down), resample_poly(self.estimate, up, down)
        return Pair(clean, estimate, rate_hz, self.files)


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
