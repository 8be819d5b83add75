"""UL-UNAS (Rong et al., "UL-UNAS: Ultra-Lightweight U-Nets for Real-Time Speech Enhancement via Network Architecture
Search", arXiv 2503.00340)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.dual_path_layers import Interleave, RecurrentGate, band_conv
from kdse.models.dual_path_unet import DEPTH, DualPathUNet, power
from kdse.models.layers import Stages


class Shape(NamedTuple):
    """What the search chose for a block: "plain", "separable" or "bottleneck", its kernel and its stride."""

    kind: str
    frames: int
    width: int
    stride: int


#: Blocks of the encoder that the paper's search found; the decoder mirrors them.
BLOCKS = (
    Shape("plain", 3, 3, 2),
    Shape("bottleneck", 2, 3, 2),
    Shape("separable", 2, 3, 1),
    Shape("bottleneck", 1, 5, 1),
    Shape("separable", 1, 5, 1),
)
#: Neighbouring bands that a gate's GRU takes in one step.
BAND_GROUP = 4


class UlUnas(DualPathUNet):
    """Ultra-lightweight U-Net found by architecture search: a real gain in (0, 1) per bin, noisy phase.

    STFT 512/256 -> decadic logarithm of the magnitude -> 129 bands -> five `Block` of which two halve the bands -> two
    grouped dual-path recurrences -> the mirrored decoder, to which the encoder's outputs are added -> gain -> inverse
    STFT. Frame-causal, 32 ms latency.

    Trainable parameters: 146,752 with the defaults; the paper's 171 k are these and the 24,576 values of the fixed band
    filters. The weights that its authors published load as any checkpoint does (`kdse.models.published`).

    Training uses batch norm as published, with PyTorch's momentum of 0.1: statistics of the batch while training, the
    running ones in eval mode, also of a teacher.

    Args:
        channels: widths of the five encoder blocks, even numbers, the last one a multiple of 4; the decoder mirrors
            them.
        window: of the STFT; published "hann", with its dual for synthesis.
        n_fft, hop: window and transform, and samples between frames.
        linear_bins, erb_bands: lowest bins that are kept, and bands for the others; together one more than a multiple
            of 4.
        sample_rate_hz: 16000 in the paper.
    """

    width_parameters = ("channels",)

    def __init__(
        self,
        channels: list[int] = [12, 24, 24, 32, 16],  # noqa: B006 (jsonargparse shows it in --help)
        window: str = "hann",
        n_fft: int = 512,
        hop: int = 256,
        linear_bins: int = 65,
        erb_bands: int = 64,
        sample_rate_hz: int = 16000,
    ) -> None:
        if len(channels) != DEPTH or min(channels) < 2 or not _divisible(channels):
            raise UserError(
                f"channels={channels}: give five even widths, the last one a multiple of 4 (halved into groups)"
            )
        super().__init__(channels[-1], window, n_fft, hop, linear_bins, erb_bands, sample_rate_hz)
        widths, bands = [1, *channels], self.band_counts
        self.encoder = nn.ModuleList(
            Block(shape, widths[i], widths[i + 1], bands[i], bands[i + 1]) for i, shape in enumerate(BLOCKS)
        )
        self.decoder = nn.ModuleList(
            Block(shape, widths[i + 1], widths[i], bands[i + 1], bands[i], up=True)
            for i, shape in reversed(list(enumerate(BLOCKS)))
        )

    def features(self, spectrum: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` to bands of the logarithm of its magnitude, ``[B, 1, T, bands]``."""
        return self.bands.merge(0.5 * power(spectrum).clamp_min(1e-24).log10())[:, None]

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        """Two groups in each block, and two directions of the recurrence."""
        return _divisible(widths["channels"])


def _divisible(channels: list[int]) -> bool:
    return all(width % 2 == 0 for width in channels) and channels[-1] % 4 == 0


class Block(Stages):
    """One of three kinds of convolution, with batch norms, `AffinePrelu` and `RecurrentGate`.

    - "plain": one convolution, norm, activation, gate.
    - "separable": pointwise convolution in two groups, norm, activation, interleaved; depthwise convolution, norm,
      activation, gate.
    - "bottleneck": as separable, but behind the activation a second pointwise convolution in two groups, norm, gate,
      interleaved.

    Args:
        shape: kind and kernel.
        channels_in, channels_out, bands_in, bands_out: of the block; one channel out makes it the last one, whose
            result is a gain: no activation, but a sigmoid behind the gate.
        up: a block of the decoder.
    """

    def __init__(
        self, shape: Shape, channels_in: int, channels_out: int, bands_in: int, bands_out: int, up: bool = False
    ) -> None:
        super().__init__()
        spatial: dict[str, Any] = {"width": shape.width, "frames": shape.frames, "stride": shape.stride, "up": up}
        gate = RecurrentGate(channels_out, BAND_GROUP)
        if shape.kind == "plain":
            self.conv = band_conv(channels_in, channels_out, **spatial)
            self.norm = nn.BatchNorm2d(channels_out)
            if channels_out > 1:
                self.activation = AffinePrelu(channels_out, bands_out)
            self.gate = gate
            if channels_out == 1:
                self.gain = nn.Sigmoid()
            return
        self.expand = band_conv(channels_in, channels_out, 1, groups=2)
        self.expand_norm = nn.BatchNorm2d(channels_out)
        self.expand_activation = AffinePrelu(channels_out, bands_in)
        self.expand_interleave = Interleave()
        self.depthwise = band_conv(channels_out, channels_out, groups=channels_out, **spatial)
        self.depthwise_norm = nn.BatchNorm2d(channels_out)
        self.depthwise_activation = AffinePrelu(channels_out, bands_out)
        if shape.kind == "separable":
            self.gate = gate
            return
        self.project = band_conv(channels_out, channels_out, 1, groups=2)
        self.project_norm = nn.BatchNorm2d(channels_out)
        self.gate = gate
        self.interleave = Interleave()


class AffinePrelu(nn.Module):
    """PReLU with a slope a channel, plus the input times a weight a channel and band, plus a bias a channel and band.

    ``[B, C, T, F]`` in and out. Initial values (1 and 0, and PReLU's slope of 0.25) are our choice.
    """

    def __init__(self, channels: int, bands: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, bands))
        self.bias = nn.Parameter(torch.zeros(channels, 1, bands))
        self.slope = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.prelu(x, self.slope) + x * self.weight + self.bias
