"""A small streaming UNet of linear inverted bottlenecks, after the cosine-distance paper (arXiv 2505.03442)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least, require_one_of
from kdse.models.base import Estimate, Tap
from kdse.models.inverted_bottleneck import ACTIVATIONS, InvertedBottleneck, PlainBlock, SeparableBlock
from kdse.models.layers import GroupedGru, NextFrames, State, whole
from kdse.models.spectral import SpectralModel, block_taps
from kdse.models.stft import Stft
from kdse.precision import exact


class UNet(SpectralModel):
    """Denoising autoencoder on compressed STFT magnitudes: a real gain in (0, 1) per bin, noisy phase.

    STFT 512/256 -> magnitude ** 0.3 -> encoder blocks, each halving the frequency axis -> latent -> decoder blocks,
    each doubling it, with additive 1x1 skips -> sigmoid -> gain -> inverse STFT. Frame-causal, 32 ms latency.
    194,593 parameters with the defaults.

    The paper (Luong et al., AES 158, 2025) calls its backbone a UNet tuned for low-resource use and names linear
    inverted bottlenecks. We have read its abstract only, so this is a reconstruction and every setting is our choice.
    The arguments cover its "mismatching scenarios" between teacher and student as we read them: width (`channels`),
    depth (the length of `channels`), latent size (`latent_channels`) and block (`block_type`, `expansion`).

    The latent is the last encoder block's output, always linear (a norm, no activation), so that its values take both
    signs and a cosine between latents uses its whole range. The skips pass by it, as in any UNet; without them
    (`skips`) all information passes through it.

    Frequencies: the topmost of the 257 bins is left out, so 256 remain and halve up to eight times; it takes its lower
    neighbour's gain. A mask of ones therefore returns the input.

    Args:
        channels: widths of the encoder blocks, one an entry, so the length is the depth; the decoder mirrors them.
        latent_channels: width of the last encoder block instead of ``channels[-1]``; None means ``channels[-1]``.
            Compression by width leaves it as it is.
        block_type: "inverted" (linear inverted bottleneck), "separable" (depthwise and 1x1) or "plain" (full).
        expansion: of inverted bottlenecks, times the wider side of the block. MobileNetV2's is 6 times the input.
        kernel_frames: frames that each block's convolution sees, the current one included. The whole network sees
            2 * depth * (kernel_frames - 1) frames of the past, plus what a GRU or a cumulative norm remembers.
        norm: "batch" (fixed statistics in eval mode, so it streams at no cost) or "cumulative" (layer norm over all
            frames so far).
        activation: "relu6" (MobileNetV2's), "leaky_relu" (slope 0.01) or "silu".
        skips: add each encoder block's output, through a 1x1 convolution, to the decoder at the same resolution.
        gru_groups: disconnected GRUs between latent and decoder, over channels and frequencies together; they must
            divide ``latent width * n_fft / 2 ** (depth + 1)``. 0 for none: the abstract mentions no recurrence.
        compression: power on the magnitudes.
        window: STFT window, "sqrt_hann" or "hann".
        n_fft: window and transform in samples; a multiple of ``2 ** (depth + 1)``.
        hop: samples between frames; at most half of `n_fft`.
        sample_rate_hz: of the audio.
    """

    causal = True
    width_parameters = ("channels",)

    def __init__(
        self,
        channels: list[int] = [16, 32, 48, 64, 64],  # noqa: B006 (jsonargparse shows it in --help)
        latent_channels: int | None = None,
        block_type: str = "inverted",
        expansion: int = 4,
        kernel_frames: int = 2,
        norm: str = "batch",
        activation: str = "relu6",
        skips: bool = True,
        gru_groups: int = 0,
        compression: float = 0.3,
        window: str = "sqrt_hann",
        n_fft: int = 512,
        hop: int = 256,
        sample_rate_hz: int = 16000,
    ) -> None:
        super().__init__()
        if not channels or any(c < 1 for c in channels):
            raise UserError(f"channels={channels}: give one width of at least 1 for each encoder block")
        if latent_channels is not None and latent_channels < 1:
            raise UserError(f"latent_channels={latent_channels}: must be at least 1, or none for channels[-1]")
        require_one_of("block_type", block_type, "inverted", "separable", "plain")
        require_one_of("norm", norm, "batch", "cumulative")
        require_one_of("activation", activation, *ACTIVATIONS)
        require_at_least(1, expansion=expansion, kernel_frames=kernel_frames)
        require_at_least(0, gru_groups=gru_groups)
        if not 0 < compression <= 1:
            raise UserError(f"compression={compression}: must lie in (0, 1]")
        self.depth = len(channels)
        if n_fft % 2 ** (self.depth + 1):
            raise UserError(
                f"n_fft={n_fft}: {self.depth} blocks halve n_fft / 2 bins each, so it must be a multiple of "
                f"{2 ** (self.depth + 1)}; give fewer channels (at most 8 for 512) or another n_fft"
            )
        self.stft = Stft(n_fft, hop, window)
        self.bands = n_fft // 2
        self.hop_samples, self.sample_rate_hz, self.compression = hop, sample_rate_hz, compression
        self.lookahead_samples, self.latency_samples = n_fft - 1, n_fft
        widths = [1, *channels[:-1], channels[-1] if latent_channels is None else latent_channels]
        kinds: dict[str, Any] = {
            "inverted": partial(InvertedBottleneck, expansion=expansion),
            "separable": SeparableBlock,
            "plain": PlainBlock,
        }
        block = partial(kinds[block_type], frames=kernel_frames, norm=norm, activation=activation)
        inner = "linear" if block_type == "inverted" else "activation"
        last = self.depth - 1
        self.encoder = nn.ModuleList(
            block(a, b, up=False, end="linear" if i == last else inner) for i, (a, b) in enumerate(pairwise(widths))
        )
        frequencies = self.bands // 2**self.depth
        self.recurrent = GroupedGru(widths[-1], frequencies, gru_groups) if gru_groups else None
        # (the first decoder block starts from the latent itself and has no skip)
        self.skips = nn.ModuleList(nn.Conv2d(c, c, 1) for c in reversed(widths[1:-1])) if skips else None
        self.decoder = nn.ModuleList(
            block(a, b, up=True, end="bare" if i == last else inner) for i, (a, b) in enumerate(pairwise(widths[::-1]))
        )

    def forward(self, noisy: Tensor) -> Estimate:
        spectrum = self.stft(noisy)
        gain = self.bin_gain(self.mask_logits(self.features(spectrum)))
        enhanced = spectrum * gain
        return Estimate(self.stft.inverse(enhanced, noisy.shape[-1]), enhanced, gain)

    def features(self, spectrum: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` to compressed magnitudes ``[B, 1, T, F - 1]``, without the topmost bin."""
        power = spectrum[:, :-1].real.square() + spectrum[:, :-1].imag.square()
        return (power + 1e-12).pow(0.5 * self.compression).transpose(1, 2).unsqueeze(1)

    def mask_logits(self, features: Tensor, run: Callable[[str, Any, Tensor], Tensor] = whole) -> Tensor:
        """Features ``[B, 1, T, F - 1]`` to the mask before its sigmoid, of the same shape."""
        outputs = self.encode(features, run)
        x = outputs[-1] if self.recurrent is None else run("recurrent", self.recurrent, outputs[-1])
        for i, block in enumerate(self.decoder):
            if self.skips is not None and i > 0:
                x = x + self.skips[i - 1](outputs[-1 - i])
            x = run(f"decoder{i}", block, x)
        return x

    def bin_gain(self, logits: Tensor) -> Tensor:
        """Mask logits ``[B, 1, T, F - 1]`` to a gain in (0, 1) per bin ``[B, F, T]``."""
        gain = torch.sigmoid(exact(logits)).squeeze(1).transpose(1, 2)
        return torch.cat([gain, gain[:, -1:]], dim=1)

    def taps(self) -> dict[str, Tap]:
        """Every block: encoder0.., the latent as "bottleneck" (the last encoder block), decoder0...

        The last decoder tap shows the mask before its sigmoid. With a GRU its output is the tap "recurrent", which
        belongs to no group, so that models with and without one pair in "bottleneck" and "decoder".
        """
        last = self.depth - 1
        taps = block_taps("encoder", last)
        taps["bottleneck"] = Tap(f"encoder.{last}", group="bottleneck")
        if self.recurrent is not None:
            taps["recurrent"] = Tap("recurrent")
        return taps | block_taps("decoder", self.depth)

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        """The latent must divide into the GRU groups, if there are any."""
        groups = init_args.get("gru_groups", 0)
        if not groups:
            return True
        latent = init_args.get("latent_channels") or widths["channels"][-1]
        return latent * (init_args.get("n_fft", 512) // 2 ** (len(widths["channels"]) + 1)) % groups == 0

    # --- streaming ---

    def parts(self) -> Iterable[tuple[str, Any, int]]:
        for i, (encode, decode) in enumerate(zip(self.encoder, self.decoder, strict=True)):
            yield f"encoder{i}", encode, self.bands // 2**i
            yield f"decoder{i}", decode, self.bands // 2 ** (self.depth - i)
        if self.recurrent is not None:
            yield "recurrent", self.recurrent, self.bands // 2**self.depth

    def step_spectrum(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        run = NextFrames(state)
        return spectrum * self.bin_gain(self.mask_logits(self.features(spectrum), run)), run.new
