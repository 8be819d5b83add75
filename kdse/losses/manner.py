"""MANNER's loss: waveform and spectra of speech and of the removed noise (Park et al., ICASSP 2022, authors' code)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdse.losses.multi_resolution import (
    check_resolutions,
    log_magnitude_distance,
    spectral_convergence,
    stft_magnitude,
)
from kdse.models.base import Estimate
from kdse.precision import exact, full_precision

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))


def manner_loss(
    estimate: Tensor,
    clean: Tensor,
    noisy: Tensor,
    resolutions: Sequence[tuple[int, int, int]] = RESOLUTIONS,
    convergence_weight: float = 0.5,
    magnitude_weight: float = 0.5,
    eps: float = 2e-7,
) -> Tensor:
    """Mean over the batch of ``alpha l(s, s^) + (1 - alpha) l(n, n^)``, a scalar.

    s is the clean speech, ``n = noisy - s`` the noise, ``n^ = noisy - s^`` what the estimate removed, and alpha the
    speech's share of the energy, ``|s|^2 / (|s|^2 + |n|^2 + eps)``. Of a target a and an estimate b, per item,
    ``l(a, b) = mean|a - b| + convergence_weight SC + magnitude_weight LM`` with, on magnitudes A and B and averaged
    over resolutions, ``SC = |A - B|_F / |A|_F`` and ``LM = mean|log A - log B|``.

    STFT frames are centred and padded with zeros, as in all losses of kdse; the authors' code reflects the signal
    there. Silence gives a finite loss and gradient (the STFT's power has a floor of 1e-7). Defaults are the authors'.

    Args:
        estimate, clean, noisy: audio ``[B, N]``.
        resolutions: (transform length, hop, Hann window length) in samples, at least one.
    """
    noise, removed = noisy - clean, noisy - estimate
    energy_s, energy_n = clean.square().sum(-1), noise.square().sum(-1)
    alpha = energy_s / (energy_s + energy_n + eps)
    total = noisy.new_zeros(())
    for share, target, heard in ((alpha, clean, estimate), (1 - alpha, noise, removed)):
        value = (target - heard).abs().mean(-1)
        for n_fft, hop, length in resolutions:
            window = torch.hann_window(length, dtype=noisy.dtype, device=noisy.device)
            a, b = (stft_magnitude(wave, n_fft, hop, window) for wave in (target, heard))
            value = value + convergence_weight / len(resolutions) * spectral_convergence(b, a)
            value = value + magnitude_weight / len(resolutions) * log_magnitude_distance(b, a)
        total = total + share * value
    return total.mean()


class MannerLoss(nn.Module):
    """The loss MANNER is trained with, `manner_loss` on the estimate's waveform.

    Args:
        n_ffts: transform lengths in samples; the authors' triple by default.
        hops: samples between frames, one a transform.
        windows: Hann window lengths, one a transform.
        convergence_weight: factor on the spectral convergence.
        magnitude_weight: factor on the log-magnitude distance.
    """

    def __init__(
        self,
        n_ffts: list[int] = [1024, 2048, 512],  # noqa: B006 (jsonargparse shows it in --help)
        hops: list[int] = [120, 240, 50],  # noqa: B006
        windows: list[int] = [600, 1200, 240],  # noqa: B006
        convergence_weight: float = 0.5,
        magnitude_weight: float = 0.5,
    ) -> None:
        super().__init__()
        check_resolutions(n_ffts, hops, windows)
        self.resolutions = list(zip(n_ffts, hops, windows, strict=True))
        self.convergence_weight, self.magnitude_weight = convergence_weight, magnitude_weight

    def forward(self, estimate: Estimate, clean: Tensor, noisy: Tensor) -> Tensor:
        with full_precision(noisy.device):
            waves = (exact(estimate.waveform), exact(clean), exact(noisy))
            return manner_loss(*waves, self.resolutions, self.convergence_weight, self.magnitude_weight)
