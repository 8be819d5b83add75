"""Uformer: a U-Net with a complex and a magnitude branch around a dilated dual-path conformer (arXiv 2111.06015)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least, require_one_of
from kdse.models.base import UNBOUNDED, Estimate, SpeechModel, Tap
from kdse.models.complex_layers import halves
from kdse.models.spectral import block_taps
from kdse.models.stft import Stft
from kdse.models.uformer_layers import FLOOR, BranchView, ConformerBlock, Dual, band_layer, modulus
from kdse.precision import exact


class Uformer(SpeechModel):
    """Uformer as in the authors' public 16 kHz code: not causal, the teacher of Distil-DCCRN.

    STFT 400/160 in a 512-point transform -> magnitude to the power 0.5, phase kept, no DC bin -> 6 encoder layers ->
    conformer -> 6 decoder layers with concatenated skips -> masks -> inverse STFT. A complex branch and a magnitude
    branch run side by side; each is offset by a sigmoid of the other after every layer (`fuse`). Compressed magnitude
    out = noisy one x (tanh|M| + sigmoid(m)) / 2 with complex mask M and magnitude mask m; the phase is the noisy one
    plus that of M.

    Trainable parameters: 3,336,049.

    Where each part comes from:
        The authors' public code (felixfuyihui/Uformer, June 2022), read for its facts: every layer, width, kernel,
            norm, activation, bias and residual, the fusion, both masks, the 1e-7 power floor. With them the count
            comes out exactly; nothing had to be guessed for it (every layer has a bias, every PReLU one slope, each
            layer norm is over channels alone, batch norm pools real and imaginary parts).
        The paper's own model is another: 9.46 M parameters, local attention, encoder-decoder attention, Swish in the
            feed-forward. Which of the two taught Distil-DCCRN is not known to us.
        Our choices: a working transform, since the public code's is broken as published (a length of 1 makes its
            kernel an identity) and this is the intended one; the padding of `Stft`, 402 frames for 4 s and no sample
            lost (the authors' does not pad: 397, and what does not fill a frame is dropped); an STFT of silence
            stays zero, and the phases are multiplied instead of added as angles, so that silence gives silence and
            finite gradients (the results differ where a bin's magnitude or the mask is below 3.5e-4, and next to
            such bins, which feed the convolutions: on speech by -74 dB in all); attention is scaled by its own width
            (theirs is 16 in one place); widths other than the published ones; more than one conformer block.

    Global attention over time makes every output sample depend on the whole signal: `causal` is False, and
    `lookahead_samples` and `latency_samples` are `UNBOUNDED`.

    Args:
        channels: widths of the encoder layers; the decoder mirrors them.
        attention_channels: width of queries, keys and values (one head).
        ff_channels: hidden width of the conformer's feed-forward layers.
        dilated_channels: width of the conformer's dilated convolutions.
        dilated_layers: number n of those; layer i has the time dilations 2^i and 2^(n - 1 - i).
        conformer_blocks: conformers in sequence; 1 in the public code.
        dropout: probability in the conformer.
        compression: power on the magnitudes.
        n_fft: length of the Fourier transform; half of it must divide by 2 for every encoder layer.
        window_samples: length of the square-root Hann window, centred in the transform.
        hop_samples: samples between frames.
        tap_branch: what the distillation taps show: "complex" (real and imaginary parts stacked on channels),
            "magnitude" or "both" (real, imaginary, magnitude). Distil-DCCRN's choice is unknown; "complex", like its
            student, is our choice.
        tap_stage: "fused" shows a layer after the branches have met, as the next layer and the skip see it; "layer"
            before. Distil-DCCRN's choice is unknown; "fused" is our choice.
        sample_rate_hz: 16000 in the public code.
    """

    causal = False
    lookahead_samples = UNBOUNDED
    latency_samples = UNBOUNDED
    width_parameters = ("channels", "attention_channels", "ff_channels", "dilated_channels")

    def __init__(
        self,
        channels: list[int] = [8, 16, 32, 64, 128, 128],  # noqa: B006 (jsonargparse shows it in --help)
        attention_channels: int = 16,
        ff_channels: int = 64,
        dilated_channels: int = 32,
        dilated_layers: int = 8,
        conformer_blocks: int = 1,
        dropout: float = 0.1,
        compression: float = 0.5,
        n_fft: int = 512,
        window_samples: int = 400,
        hop_samples: int = 160,
        tap_branch: str = "complex",
        tap_stage: str = "fused",
        sample_rate_hz: int = 16000,
    ) -> None:
        super().__init__()
        if not channels or any(c < 1 for c in channels):
            raise UserError(f"channels={channels}: give at least one encoder layer, each at least one channel wide")
        if channels[-1] < 2:
            raise UserError(f"channels[-1]={channels[-1]}: must be at least 2 (a layer norm over one is constant)")
        require_at_least(2, attention_channels=attention_channels, dilated_channels=dilated_channels)
        require_at_least(1, ff_channels=ff_channels, conformer_blocks=conformer_blocks)
        require_at_least(0, dilated_layers=dilated_layers)
        if n_fft % 2 ** (len(channels) + 1):
            raise UserError(
                f"n_fft={n_fft}: must be a multiple of {2 ** (len(channels) + 1)} for {len(channels)} layers "
                "of channels (each halves the n_fft / 2 frequencies)"
            )
        if not 0 <= dropout < 1:
            raise UserError(f"dropout={dropout}: must be from 0 to below 1")
        if not 0 < compression <= 1:
            raise UserError(f"compression={compression}: must be above 0 and at most 1")
        require_one_of("tap_branch", tap_branch, "complex", "magnitude", "both")
        require_one_of("tap_stage", tap_stage, "fused", "layer")
        self.sample_rate_hz, self.hop_samples, self.compression = sample_rate_hz, hop_samples, compression
        self.stft = Stft(n_fft, hop_samples, "sqrt_hann", window_samples, max(0, (n_fft - window_samples) // 2))

        def layer(channels_in: int, channels_out: int, up: bool, last: bool = False) -> Dual:
            return Dual(
                band_layer(True, channels_in, channels_out, up, last),
                band_layer(False, channels_in, channels_out, up, last),
                BranchView(tap_branch),
                tap_stage == "fused",
            )

        widths = [1, *channels]
        self.encoder = nn.ModuleList(layer(a, b, up=False) for a, b in pairwise(widths))
        self.conformer = nn.ModuleList(
            ConformerBlock(channels[-1], attention_channels, ff_channels, dilated_channels, dilated_layers, dropout)
            for _ in range(conformer_blocks)
        )
        self.bottleneck_view = BranchView(tap_branch)
        self.decoder = nn.ModuleList(
            layer(2 * a, b, up=True, last=i == len(channels) - 1) for i, (a, b) in enumerate(pairwise(widths[::-1]))
        )

    def forward(self, noisy: Tensor) -> Estimate:
        spectrum = self.stft(noisy)
        mask = self.mask(*self.network(*self.features(spectrum)))
        enhanced = spectrum * mask
        return Estimate(self.stft.inverse(enhanced, noisy.shape[-1]), enhanced, mask)

    def features(self, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrum ``[B, F, T]`` to its compressed form ``[2B, 1, T, F - 1]`` and magnitude ``[B, 1, T, F - 1]``.

        Below the power floor both fall to zero as the spectrum does, so that silence has a gradient.
        """
        x = torch.cat([spectrum.real, spectrum.imag])[:, 1:].transpose(1, 2).unsqueeze(1)
        real, imag = halves(x)
        power = real.square() + imag.square()
        floored = power.clamp_min(FLOOR)
        gain = floored.pow((self.compression - 1) / 2)
        return x * torch.cat([gain, gain]), power * floored.pow(self.compression / 2 - 1)

    def network(self, stacked: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Compressed spectrum and magnitude to both masks before their activations, in the same shapes."""
        skips = []
        for layer in self.encoder:
            stacked, magnitude = layer(stacked, magnitude)
            skips.append((stacked, magnitude))
        for block in self.conformer:
            stacked, magnitude = block(stacked, magnitude)
        self.bottleneck_view(stacked, magnitude)
        for layer, (skip, magnitude_skip) in zip(self.decoder, reversed(skips), strict=True):
            stacked, magnitude = layer(torch.cat([skip, stacked], 1), torch.cat([magnitude_skip, magnitude], 1))
        return stacked, magnitude

    def mask(self, stacked: Tensor, magnitude: Tensor) -> Tensor:
        """Raw masks ``[2B, 1, T, F - 1]`` and ``[B, 1, T, F - 1]`` to one complex gain ``[B, F, T]``, zero at DC.

        The branches' mean acts on compressed magnitudes; its power 1 / compression on plain ones.
        """
        stacked, magnitude = exact(stacked), exact(magnitude)
        size = modulus(stacked)
        gain = (0.5 * (size.tanh() + magnitude.sigmoid())).pow(1 / self.compression)
        both = (stacked * torch.cat([gain / size] * 2)).squeeze(1).transpose(1, 2)
        return self.stft.join(*halves(F.pad(both, (0, 0, 1, 0))))

    def taps(self) -> dict[str, Tap]:
        """Encoder layers, conformer and decoder layers; the last decoder layer's output is the masks' raw form."""
        depth = len(self.encoder)
        bottleneck = {"bottleneck": Tap("bottleneck_view", group="bottleneck")}
        return block_taps("encoder", depth, ".view") | bottleneck | block_taps("decoder", depth, ".view")

    @classmethod
    def presets(cls) -> list[dict[str, Any]]:
        """The public 16 kHz model."""
        inner = {"attention_channels": 16, "ff_channels": 64, "dilated_channels": 32}
        return [{"channels": [8, 16, 32, 64, 128, 128], **inner}]

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        """Widths that a layer norm runs over are two or more."""
        return min(widths["channels"][-1], widths["attention_channels"], widths["dilated_channels"]) >= 2
