"""Spectra without complex tensors: exporters and small runtimes know real ones only.

Inside `real_spectra(model)` every `Stft` of a model gives and takes a `Pair` of real tensors where it otherwise gives
and takes one complex tensor. A model that touches its spectra with what `Pair` offers, and joins real and imaginary
parts with `Stft.join`, needs no code of its own for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdse.models.stft import Stft


class Pair:
    """A complex tensor as two real ones of the same shape; the part of Tensor's interface that models use."""

    def __init__(self, real: Tensor, imag: Tensor) -> None:
        self.real, self.imag = real, imag

    @property
    def shape(self) -> torch.Size:
        return self.real.shape

    @property
    def device(self) -> torch.device:
        return self.real.device

    def __getitem__(self, key: Any) -> Pair:
        return Pair(self.real[key], self.imag[key])

    def transpose(self, first: int, second: int) -> Pair:
        return Pair(self.real.transpose(first, second), self.imag.transpose(first, second))

    def __mul__(self, other: Any) -> Pair:
        if isinstance(other, Pair):
            real = self.real * other.real - self.imag * other.imag
            return Pair(real, self.real * other.imag + self.imag * other.real)
        return Pair(self.real * other, self.imag * other)

    __rmul__ = __mul__

    def conj(self) -> Pair:
        return Pair(self.real, -self.imag)

    def abs(self) -> Tensor:
        return (self.real.square() + self.imag.square()).sqrt()


def to_pair(spectrum: Tensor) -> Pair:
    """``[..., 2]``, the real and the imaginary part, as a pair of ``[...]``."""
    return Pair(spectrum[..., 0], spectrum[..., 1])


def from_pair(spectrum: Any) -> Tensor:
    """A pair (or anything else with a real and an imaginary part) as one tensor ``[..., 2]``."""
    return torch.stack([spectrum.real, spectrum.imag], dim=-1)


class RealStft(Stft):
    """`Stft` with a `Pair` for each complex tensor. It is never built: `real_spectra` lends its methods."""

    def analyse(self, frames: Tensor) -> Any:
        """Frames ``[..., W]`` to a pair of ``[..., F]``."""
        # (the exporter knows this as one real operator)
        return to_pair(torch.view_as_real(torch.fft.rfft(self.windowed(frames))))

    def synthesise(self, bins: Any) -> Tensor:
        """A pair of ``[..., F]`` to windowed frames ``[..., W]``."""
        frames = torch.fft.irfft(torch.view_as_complex(from_pair(bins)), n=self.n_fft)
        return frames[..., self.window_offset : self.window_offset + self.window_samples] * self.dual

    def join(self, real: Tensor, imag: Tensor) -> Any:
        return Pair(real, imag)


@contextmanager
def real_spectra(model: nn.Module) -> Iterator[None]:
    """Within the body, each `Stft` in ``model`` works with pairs."""
    stfts = [module for module in model.modules() if type(module) is Stft]
    try:
        for stft in stfts:
            stft.__class__ = RealStft
        yield
    finally:
        for stft in stfts:
            stft.__class__ = Stft
