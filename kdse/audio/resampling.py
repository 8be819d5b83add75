"""Resampling of a signal that arrives in pieces, equal to resampling it whole."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

#: The filter reaches this many samples of the lower rate to either side, as in scipy's `resample_poly`.
HALF_WIDTH = 10


class ResampleStream:
    """Windowed-sinc resampling ``[B, n]`` in, ``[B, m]`` out; joined, `scipy.signal.resample_poly` of the joined input.

    N samples become ``ceil(N * to_hz / from_hz)``, for any two rates. Memory is that of the filter, the sinc of
    `resample_poly` (Kaiser window, beta 5). A sample comes out as soon as the filter has its input: at most
    `delay_samples` input samples later, which is 0.7 ms between 16 and 48 or 44.1 kHz. (soxr's stream filters are
    steeper and keep 20 to 60 ms to themselves there.)

    Args:
        from_hz, to_hz: sample rates.
        batch: channels.
    """

    def __init__(self, from_hz: int, to_hz: int, batch: int = 1) -> None:
        divisor = math.gcd(from_hz, to_hz)
        self.up, self.down = to_hz // divisor, from_hz // divisor
        self._half = HALF_WIDTH * max(self.up, self.down)
        same = self.up == self.down
        self.delay_samples = 0 if same else math.ceil((self._half + self.down - 1) / self.up) + 1
        self.delay_seconds = self.delay_samples / from_hz
        self._batch = batch
        self._restart()

    def _restart(self) -> None:
        self._waiting = torch.zeros(self._batch, 0)  # input from sample _first on
        self._first = self._received = self._emitted = 0

    def push(self, samples: Tensor) -> Tensor:
        if self.up == self.down:
            return samples
        self._received += samples.shape[1]
        self._waiting = torch.cat([self._waiting, samples], dim=1)
        # the filter of output m ends at input (m * down + half) / up
        return self._until((self._received * self.up - self._half - 1) // self.down + 1)

    def flush(self) -> Tensor:
        """Ends the signal: the rest of the output, with zeros behind the input."""
        rest = self._until(math.ceil(self._received * self.up / self.down))
        self._restart()
        return rest

    def _until(self, end: int) -> Tensor:
        """The output from what came out before up to sample ``end``."""
        if end <= self._emitted:
            return self._waiting[:, :0]
        from scipy.signal import upfirdn

        # `upfirdn` gives every `down`-th sample, from the first on: zeros in front of the filter shift the grid there
        ahead = self._half - self._first * self.up
        shift = -ahead % self.down
        skip = (self._emitted * self.down + ahead + shift) // self.down
        count = skip + end - self._emitted
        zeros = max(0, math.ceil(count * self.down / self.up) - self._waiting.shape[1])
        wave = np.pad(self._waiting.numpy(), ((0, 0), (0, zeros)))
        window = np.pad(_low_pass(self.up, self.down), (shift, 0))
        result = upfirdn(window, wave, self.up, self.down, axis=1)[:, skip:count]
        self._emitted = end
        needed = max(self._first, math.ceil((end * self.down - self._half) / self.up))
        self._waiting = self._waiting[:, needed - self._first :].clone()
        self._first = needed
        return torch.from_numpy(np.ascontiguousarray(result, dtype=np.float32))


@functools.lru_cache(maxsize=8)
def _low_pass(up: int, down: int) -> np.ndarray:
    """The filter of `resample_poly`, which would design it anew for every piece."""
    from scipy.signal import firwin

    factor = max(up, down)
    return firwin(2 * HALF_WIDTH * factor + 1, 1 / factor, window=("kaiser", 5.0)).astype(np.float32) * up
