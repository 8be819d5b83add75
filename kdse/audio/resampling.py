"""Resampling of a signal that arrives in pieces, equal to resampling it whole."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

#: The filter reaches this many samples of the lower rate to either side, as in scipy's `resample_poly`.
HALF_WIDTH = 10
#: Up to this many phases the filter is kept for each of them, as `resample_poly` does; all usual rates stay below
#: (44.1 kHz and 16 kHz have 441). Beyond, its values are interpolated, so that memory does not grow with them.
MOST_PHASES = 1000
#: Places of the kept filter within one sample of the lower rate. Between them it is a straight line, which is off by
#: 1e-7 at most, less than float32 resolves.
PLACES = 2048
#: Filter values that are made at once.
AT_ONCE = 1 << 20


class ResampleStream:
    """Windowed-sinc resampling ``[B, n]`` in, ``[B, m]`` out; joined, `scipy.signal.resample_poly` of the joined input.

    N samples become ``ceil(N * to_hz / from_hz)``, for any two rates. Memory is that of the filter, the sinc of
    `resample_poly` (Kaiser window, beta 5), and bounded: rates without a common divisor (16,001 Hz) share what is kept
    of it (`MOST_PHASES`). A sample comes out as soon as the filter has its input: at most
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
        piece = self._polyphase if max(self.up, self.down) <= MOST_PHASES else self._interpolated
        result = piece(self._waiting.numpy(), end)
        self._emitted = end
        needed = max(self._first, (end * self.down - self._half) // self.up - 1)
        self._waiting = self._waiting[:, needed - self._first :].clone()
        self._first = needed
        return torch.from_numpy(np.ascontiguousarray(result, dtype=np.float32))

    def _polyphase(self, waiting: np.ndarray, end: int) -> np.ndarray:
        from scipy.signal import upfirdn

        # `upfirdn` gives every `down`-th sample, from the first on: zeros in front of the filter shift the grid there
        ahead = self._half - self._first * self.up
        shift = -ahead % self.down
        skip = (self._emitted * self.down + ahead + shift) // self.down
        count = skip + end - self._emitted
        zeros = max(0, math.ceil(count * self.down / self.up) - waiting.shape[1])
        wave = np.pad(waiting, ((0, 0), (0, zeros)))
        window = np.pad(_low_pass(self.up, self.down), (shift, 0))
        result: np.ndarray = upfirdn(window, wave, self.up, self.down, axis=1)[:, skip:count]
        return result

    def _interpolated(self, waiting: np.ndarray, end: int) -> np.ndarray:
        """Output m is the sum over inputs k of x[k] h(k - m * down / up), h between two kept places of the filter."""
        kept = _kept_filter(self.up, self.down)
        places, taps = len(kept) - 1, kept.shape[1]
        result = np.empty((waiting.shape[0], end - self._emitted), np.float32)
        for first in range(self._emitted, end, max(1, AT_ONCE // taps)):
            m = np.arange(first, min(end, first + max(1, AT_ONCE // taps)))
            before, rest = np.divmod(m * self.down, self.up)
            place, share = np.divmod(rest * (places / self.up), 1)
            start = before - self._first - (taps // 2 - 1)  # of each window, in what waits
            wave = np.pad(waiting[:, max(0, start[0]) : max(0, start[-1] + taps)], ((0, 0), (max(0, -start[0]), 0)))
            wave = np.pad(wave, ((0, 0), (0, max(0, start[-1] - start[0] + taps - wave.shape[1]))))
            windows = np.lib.stride_tricks.sliding_window_view(wave, taps, axis=1)[:, start - start[0]]
            left, right = (kept[place.astype(np.int64) + step] for step in (0, 1))
            filters = left + share[:, None] * (right - left)
            result[:, m[0] - self._emitted : m[-1] + 1 - self._emitted] = np.einsum("bnt,nt->bn", windows, filters)
        return result


@functools.lru_cache(maxsize=8)
def _kept_filter(up: int, down: int) -> np.ndarray:
    """The filter of `resample_poly` at ``[places + 1, taps]``: row i for outputs i / places after an input sample.

    Of it, which is sampled ``up`` times between inputs, this is the continuous form.
    """
    narrow = min(1.0, up / down)  # how far the filter is stretched, in input samples
    reach = math.ceil(HALF_WIDTH / narrow)
    places = max(32, math.ceil(PLACES * narrow))
    taps = np.arange(1 - reach, reach + 2)
    distance = narrow * (taps - np.arange(places + 1)[:, None] / places)
    window = np.i0(5 * np.sqrt(np.clip(1 - (distance / HALF_WIDTH) ** 2, 0, 1)))
    values = np.where(np.abs(distance) <= HALF_WIDTH, np.sinc(distance) * window, 0)
    grid = np.arange(-HALF_WIDTH * PLACES, HALF_WIDTH * PLACES + 1) / PLACES
    whole = np.sum(np.sinc(grid) * np.i0(5 * np.sqrt(1 - (grid / HALF_WIDTH) ** 2))) / PLACES
    return narrow * values / whole


@functools.lru_cache(maxsize=8)
def _low_pass(up: int, down: int) -> np.ndarray:
    """The filter of `resample_poly`, which would design it anew for every piece."""
    from scipy.signal import firwin

    factor = max(up, down)
    return firwin(2 * HALF_WIDTH * factor + 1, 1 / factor, window=("kaiser", 5.0)).astype(np.float32) * up
