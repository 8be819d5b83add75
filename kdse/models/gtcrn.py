"""GTCRN (Rong et al., "GTCRN: A Speech Enhancement Model Requiring Ultralow Computational Resources", ICASSP 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least
from kdse.models.dual_path_layers import RecurrentGate, band_conv, interleaved
from kdse.models.dual_path_unet import DualPathUNet, power
from kdse.models.layers import Stages, State

#: Frames between the rows of the kernels of the three middle blocks of the encoder; the decoder's are in reverse.
DILATIONS = (1, 2, 5)


class Gtcrn(DualPathUNet):
    """Grouped temporal convolutional recurrent network: a complex ratio mask for 24 thousand weights.

    STFT 512/256 -> magnitude, real and imaginary part -> 129 bands -> each band beside its two neighbours (subband
    feature extraction) -> two strided convolutions and three `GroupedBlock` -> two grouped dual-path recurrences -> the
    mirrored decoder, to which the encoder's outputs are added -> mask in (-1, 1) for real and imaginary part -> complex
    product -> inverse STFT. Frame-causal, 32 ms latency.

    Trainable parameters: 23,669 with the defaults, the paper's 23.67 k. The weights that its authors published load as
    any checkpoint does (`kdse.models.published`).

    Training uses batch norm as published, with PyTorch's momentum of 0.1: statistics of the batch while training, the
    running ones in eval mode, also of a teacher.

    Args:
        channels: of all blocks' outputs and of the recurrences, a multiple of 4.
        hidden: of the depthwise convolutions inside the grouped blocks; published as many as `channels`.
        window: of the STFT; published "sqrt_hann".
        n_fft, hop: window and transform, and samples between frames.
        linear_bins, erb_bands: lowest bins that are kept, and bands for the others; together one more than a multiple
            of 4.
        sample_rate_hz: 16000 in the paper.
    """

    width_parameters = ("channels", "hidden")

    def __init__(
        self,
        channels: int = 16,
        hidden: int = 16,
        window: str = "sqrt_hann",
        n_fft: int = 512,
        hop: int = 256,
        linear_bins: int = 65,
        erb_bands: int = 64,
        sample_rate_hz: int = 16000,
    ) -> None:
        if channels < 4 or channels % 4:
            raise UserError(f"channels={channels}: must be a multiple of 4 (halved into groups, these into directions)")
        require_at_least(1, hidden=hidden)
        super().__init__(channels, window, n_fft, hop, linear_bins, erb_bands, sample_rate_hz)
        self.encoder = nn.ModuleList(
            [
                _edge(9, channels, nn.PReLU()),
                _edge(channels, channels, nn.PReLU(), groups=2),
                *(GroupedBlock(channels, hidden, dilation) for dilation in DILATIONS),
            ]
        )
        self.decoder = nn.ModuleList(
            [
                *(GroupedBlock(channels, hidden, dilation) for dilation in reversed(DILATIONS)),
                _edge(channels, channels, nn.PReLU(), groups=2, up=True),
                _edge(channels, 2, nn.Tanh(), up=True),
            ]
        )

    def features(self, spectrum: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` to each band of magnitude, real and imaginary part beside its neighbours,
        ``[B, 9, T, bands]``."""
        magnitude = (power(spectrum) + 1e-12).sqrt()
        parts = torch.stack([magnitude, spectrum.real.transpose(1, 2), spectrum.imag.transpose(1, 2)], dim=1)
        x = F.pad(self.bands.merge(parts), (1, 1))
        return torch.stack([x[..., :-2], x[..., 1:-1], x[..., 2:]], dim=2).flatten(1, 2)

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        """Two groups, each with two directions."""
        return widths["channels"] % 4 == 0


class GroupedBlock(Stages):
    """Grouped temporal convolution: half of the channels pass it, the others pass by, and both are interleaved.

    Convolution over 3 bands (the paper's subband feature extraction and the pointwise convolution behind it are one) ->
    dilated depthwise convolution over 3 frames and 3 bands -> pointwise convolution, each with batch norm, the first
    two with PReLU -> `RecurrentGate`.
    """

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        self.expand = band_conv(half, hidden, 3)
        self.expand_norm = nn.BatchNorm2d(hidden)
        self.expand_activation = nn.PReLU()
        self.depthwise = band_conv(hidden, hidden, 3, 3, hidden, dilation=dilation)
        self.depthwise_norm = nn.BatchNorm2d(hidden)
        self.depthwise_activation = nn.PReLU()
        self.project = band_conv(hidden, half, 1)
        self.project_norm = nn.BatchNorm2d(half)
        self.gate = RecurrentGate(half)

    def forward(self, x: Tensor) -> Tensor:
        passing, kept = x.chunk(2, dim=1)
        return interleaved(super().forward(passing), kept)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        passing, kept = x.chunk(2, dim=1)
        y, new = super().step(passing, state)
        return interleaved(y, kept), new


def _edge(channels_in: int, channels_out: int, activation: nn.Module, groups: int = 1, up: bool = False) -> Stages:
    """A block of one frame and 5 bands, which halves the bands or doubles them."""
    block = Stages()
    block.add_module("conv", band_conv(channels_in, channels_out, 5, groups=groups, stride=2, up=up))
    block.add_module("norm", nn.BatchNorm2d(channels_out))
    block.add_module("activation", activation)
    return block
