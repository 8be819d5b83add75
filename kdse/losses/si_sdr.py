"""Scale-invariant signal-to-distortion ratio (Le Roux et al., ICASSP 2019) as a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdse.models.base import Estimate
from kdse.precision import exact, full_precision


def si_sdr(estimate: Tensor, clean: Tensor, eps: float = 1e-8) -> Tensor:
    """SI-SDR in dB of ``[B, N]`` signals, one value ``[B]`` each; means are not removed.

    ``eps`` is relative to the estimate's power: it bounds the value at about 80 dB and keeps the gradient of a
    silent target or estimate finite (such an item scores about -80 dB).
    """
    power = estimate.square().sum(-1)
    overlap = (estimate * clean).sum(-1)
    # the share of the estimate's power along the clean signal: cos^2 of the angle between the two
    target = overlap.square() / clean.square().sum(-1).clamp_min(1e-12)
    floor = eps * power + 1e-12
    return 10 * torch.log10((target + floor) / ((power - target).clamp_min(0) + floor))


class SiSdr(nn.Module):
    """Negative SI-SDR in dB, averaged over the batch."""

    def forward(self, estimate: Estimate, clean: Tensor, noisy: Tensor) -> Tensor:
        with full_precision(noisy.device):
            return -si_sdr(exact(estimate.waveform), exact(clean)).mean()
