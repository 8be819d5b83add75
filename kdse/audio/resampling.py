"""Resampling of a signal that arrives in pieces, equal to resampling it whole."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

#: scipy's polyphase filter reaches this many samples of the lower rate to either side.
HALF_WIDTH = 10


class ResampleStream:
    """Windowed-sinc resampling ``[B, n]`` in, ``[B, m]`` out; joined, `resample` of the joined input.

    N samples become ``ceil(N * to_hz / from_hz)``. Works for any two rates. Memory does not grow: pieces are cut where
    input and output samples coincide, with enough context on both sides that the filter sees no edge.

    An input sample is answered at most `delay_samples` input samples later: 0.7 ms from 48 to 16 kHz, 20 ms from 44.1
    to 16 kHz, whose samples coincide every 10 ms only.

    Args:
        from_hz, to_hz: sample rates.
        batch: channels.
    """

    def __init__(self, from_hz: int, to_hz: int, batch: int = 1) -> None:
        divisor = math.gcd(from_hz, to_hz)
        self.up, self.down = to_hz // divisor, from_hz // divisor
        reach = math.ceil(HALF_WIDTH * max(self.up, self.down) / self.up) + 1
        self._context = math.ceil(reach / self.down) * self.down
        self.delay_samples = 0 if self.up == self.down else self._context + self.down - 1
        self.delay_seconds = self.delay_samples / from_hz
        self._waiting = torch.zeros(batch, 0)
        self._past = 0  # samples of left context at the start of _waiting
        self._received = 0
        self._emitted = 0

    def push(self, samples: Tensor) -> Tensor:
        self._received += samples.shape[1]
        if self.up == self.down:
            return samples
        self._waiting = torch.cat([self._waiting, samples], dim=1)
        ready = (self._waiting.shape[1] - self._past - self._context) // self.down * self.down
        return self._cut(ready) if ready > 0 else samples[:, :0]

    def flush(self) -> Tensor:
        if self.up == self.down:
            return self._waiting
        rest = resample(self._waiting, self.up, self.down)[:, self._past // self.down * self.up :]
        rest = rest[:, : math.ceil(self._received * self.up / self.down) - self._emitted]
        self._waiting, self._past, self._received, self._emitted = self._waiting[:, :0], 0, 0, 0
        return rest

    def _cut(self, ready: int) -> Tensor:
        first = self._past // self.down * self.up
        count = ready // self.down * self.up
        window = self._waiting[:, : self._past + ready + self._context]
        result = resample(window, self.up, self.down)[:, first : first + count]
        keep = min(self._context, self._past + ready)
        self._waiting = self._waiting[:, self._past + ready - keep :].clone()
        self._past = keep
        self._emitted += count
        return result


def resample(samples: Tensor, up: int, down: int) -> Tensor:
    """``[B, n]`` float32 to ``[B, ceil(n * up / down)]`` by scipy's zero-phase polyphase filter (Kaiser, beta 5)."""
    if samples.shape[1] == 0 or up == down:
        return samples
    from scipy.signal import resample_poly

    window = _low_pass(max(up, down))
    wave = resample_poly(samples.numpy(), up, down, axis=1, window=window)
    return torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))


@functools.lru_cache(maxsize=8)
def _low_pass(factor: int) -> np.ndarray:
    """resample_poly's own filter, which it would design anew for every hop: most of its time at 44.1 kHz."""
    from scipy.signal import firwin

    return firwin(2 * HALF_WIDTH * factor + 1, 1 / factor, window=("kaiser", 5.0)).astype(np.float32)
