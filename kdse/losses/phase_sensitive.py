"""Phase-sensitive spectrum approximation (Erdogan et al., ICASSP 2015), the two-step paper's supervised loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.base import Estimate
from kdse.models.stft import Stft, power
from kdse.precision import exact, full_precision


def phase_sensitive_loss(
    estimate: Tensor, clean: Tensor, noisy: Tensor, truncate: bool = False, scale: Tensor | None = None
) -> Tensor:
    """Mean over batch, bins and frames of ``(|S^| - |S| cos(theta_S - theta_Y))^2``.

    Args:
        estimate: magnitude of the estimate ``[B, F, T]`` (mask times noisy magnitude).
        clean: complex clean spectrum S ``[B, F, T]``.
        noisy: complex noisy spectrum Y ``[B, F, T]``.
        truncate: clip the target to [0, |Y|].
        scale: factor on all three, one an item ``[B]``; None for 1.

    Silence (all zero) gives zero with zero gradient.
    """
    magnitude = power(noisy).clamp_min_(1e-24).sqrt_()
    target = (clean * noisy.conj()).real / magnitude
    if truncate:
        target = torch.minimum(target.clamp_min(0.0), magnitude)
    gap = estimate - target
    return (gap if scale is None else gap.mul_(scale[:, None, None])).square().mean()


class PhaseSensitive(nn.Module):
    """The phase-sensitive loss of an estimate on linear STFT bins.

    Args:
        truncate: clip the target to [0, |Y|]. The paper does not say; off is our choice.
        normalise: divide each item by its noisy input's mean bin magnitude (RMS times the window's norm) first, so
            that quiet recordings weigh as much as loud ones and the loss is of order one. The paper does not say;
            on is our choice.
        n_fft: frame length in samples.
        hop: samples between frames.

    Raises:
        ValueError: in `forward`, for a model whose spectrum has other bins or frames.
    """

    def __init__(self, truncate: bool = False, normalise: bool = True, n_fft: int = 512, hop: int = 256) -> None:
        super().__init__()
        self.truncate, self.normalise = truncate, normalise
        self.stft = Stft(n_fft, hop)

    def forward(self, estimate: Estimate, clean: Tensor, noisy: Tensor) -> Tensor:
        with full_precision(noisy.device):
            spectrum = estimate.spectrum if estimate.spectrum is not None else self.stft(estimate.waveform)
            scale = None
            if self.normalise:  # white noise of the noisy input's level would have unit power in every bin
                energy = exact(noisy).square().mean(-1).clamp_min(1e-12) * self.stft.window.square().sum()
                scale = energy.rsqrt()
            noisy_bft, clean_bft = self.stft(torch.cat([noisy, clean])).chunk(2)
            if spectrum.shape != noisy_bft.shape:
                raise UserError(
                    f"model.loss: PhaseSensitive's STFT gives {[*noisy_bft.shape[1:]]} bins and frames, the model's "
                    f"{[*spectrum.shape[1:]]}; give --model.loss the model's n_fft and hop, or a loss on waveforms "
                    "(kdse.losses.SiSdr, CompressedSpectral)"
                )
            magnitude = power(spectrum).add_(1e-20).sqrt_()
            return phase_sensitive_loss(magnitude, clean_bft, noisy_bft, self.truncate, scale)
