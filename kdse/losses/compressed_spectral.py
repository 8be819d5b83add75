"""Compressed complex spectral loss (Braun & Tashev 2021, "A consolidated view of loss functions")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.base import Estimate
from kdse.models.stft import Stft, power
from kdse.precision import exact, full_precision

FLOOR = 1e-12


def compressed_spectral_loss(estimate: Tensor, clean: Tensor, compression: float, complex_weight: float) -> Tensor:
    """Mean over bins of ``(1 - b) (|S^|^c - |S|^c)^2 + b | |S^|^c e^(j phi^) - |S|^c e^(j phi) |^2``.

    Args:
        estimate: complex spectrum ``[B, F, T]``.
        clean: complex spectrum ``[B, F, T]``.
        compression: the power c.
        complex_weight: the share b of the term that sees phase.
    """
    ours, target = _compress(estimate, compression), _compress(clean, compression)
    magnitude = (ours[0] - target[0]).square()
    with_phase = (ours[1] - target[1]).square().sum(-1)
    return ((1 - complex_weight) * magnitude + complex_weight * with_phase).mean()


def _compress(spectrum: Tensor, compression: float) -> tuple[Tensor, Tensor]:
    """Compressed magnitude, and compressed complex values as (real, imaginary) in a last axis."""
    floored = power(spectrum) + FLOOR
    return floored.pow(compression / 2), torch.view_as_real(spectrum) * floored.pow((compression - 1) / 2)[..., None]


class CompressedSpectral(nn.Module):
    """Compressed magnitude and compressed complex spectrum of an estimate against clean speech.

    Args:
        compression: power on the magnitudes, 0.3 in the paper.
        complex_weight: share of the complex term, 0.3 in the paper.
        normalise: divide both signals by the clean item's RMS first. The paper divides by the active speech level;
            the plain RMS is our choice. Silent items are divided by the RMS of the noisy input.
        n_fft: frame length in samples.
        hop: samples between frames.
    """

    def __init__(
        self,
        compression: float = 0.3,
        complex_weight: float = 0.3,
        normalise: bool = True,
        n_fft: int = 512,
        hop: int = 256,
    ) -> None:
        super().__init__()
        if not 0 < compression <= 1 or not 0 <= complex_weight <= 1:
            raise UserError(f"compression={compression}, complex_weight={complex_weight}: both lie between 0 and 1")
        self.compression, self.complex_weight, self.normalise = compression, complex_weight, normalise
        self.stft = Stft(n_fft, hop)

    def forward(self, estimate: Estimate, clean: Tensor, noisy: Tensor) -> Tensor:
        with full_precision(noisy.device):
            wave, clean = exact(estimate.waveform), exact(clean)
            if self.normalise:
                level = clean.square().mean(-1, keepdim=True).sqrt()
                fallback = exact(noisy).square().mean(-1, keepdim=True).sqrt()
                level = torch.where(level > 1e-5, level, fallback).clamp_min(1e-5)
                wave, clean = wave / level, clean / level
            return compressed_spectral_loss(self.stft(wave), self.stft(clean), self.compression, self.complex_weight)
