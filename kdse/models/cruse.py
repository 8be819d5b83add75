"""CRUSE as the two-step distillation paper uses it (arXiv 2309.08144, section 1.2; after Braun et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, require_one_of
from kdse.machine.packages import required
from kdse.models.base import Estimate, Tap
from kdse.models.layers import CausalBlock, GroupedGru, NextFrames, State, join_skip, product, whole
from kdse.models.spectral import SpectralModel, block_taps
from kdse.models.stft import Stft
from kdse.precision import exact

DEPTH = 4


class Cruse(SpectralModel):
    """Convolutional recurrent U-Net on mel magnitudes: a real gain per time-frequency bin, noisy phase.

    STFT 512/256 -> magnitude -> 80 mel bands -> power 0.3 -> 4 encoder blocks -> grouped GRU -> 4 decoder blocks
    with additive 1x1 skips -> mel mask in (0, 1) -> 257-bin gain -> inverse STFT. Frame-causal, 32 ms latency.

    Trainable parameters: 1,867,041 for {32,64,128,192}; 347,633 for {16,32,64,80}; 242,681 for {8,32,64,64};
    62,313 for {8,16,32,32}; 30,101 for {4,8,16,24}. The paper prints {32,64,128,192} with 1.9 M and {8,16,32,32} with
    62 k; the exact counts follow from blocks it does not spell out, and the other widths are fits to sizes it reports.

    Args:
        channels: widths of the four encoder blocks; the decoder mirrors them.
        gru_groups: disconnected GRUs in the bottleneck.
        mel_bands: bands from 50 Hz to 8 kHz; a multiple of 16.
        compression: power on the mel magnitudes.
        slope: of LeakyReLU.
        window: STFT window; the paper is silent, "sqrt_hann" is our choice.
        mel_scale: "htk" or "slaney"; the paper is silent, "htk" is our choice.
        mel_norm: "slaney" scales each mel filter to unit area; None leaves them at unit height. The paper is silent,
            None is our choice.
        mask_expansion: how the mel mask becomes a gain per bin, which the paper does not describe. "average" (our
            choice): each bin takes the average of the bands that cover it, weighted by their filters; "nearest": the
            strongest band alone. Ones give ones in both, and bins that no band covers take their nearest bin's
            strongest band.
        norm_over_time: layer norm over all frames so far, or over each frame alone. The paper says "cumulative";
            that it pools channels and frequencies too is our reading.
        gru_activation: LeakyReLU after the GRU. The paper is silent, none is our choice.
        tap_stage: what the distillation taps of the convolutional blocks show: "output" (after the activation),
            "norm" (before it) or "conv" (before the norm). The paper is silent, "output" is our choice.
        mask_floor: smallest gain of a bin, in dB; None for no floor. The paper has none.
        sample_rate_hz: 16000 in the paper.
    """

    hop_samples = 256
    causal = True
    lookahead_samples = 511
    latency_samples = 512
    width_parameters = ("channels",)

    def __init__(
        self,
        channels: list[int] = [32, 64, 128, 192],  # noqa: B006 (jsonargparse shows it in --help)
        gru_groups: int = 4,
        mel_bands: int = 80,
        compression: float = 0.3,
        slope: float = 0.2,
        window: str = "sqrt_hann",
        mel_scale: str = "htk",
        mel_norm: str | None = None,
        mask_expansion: str = "average",
        norm_over_time: bool = True,
        gru_activation: bool = False,
        tap_stage: str = "output",
        mask_floor: float | None = None,
        sample_rate_hz: int = 16000,
    ) -> None:
        super().__init__()
        if len(channels) != DEPTH or any(c < 1 for c in channels):
            raise UserError(f"channels={channels}: CRUSE has four encoder blocks, each at least one channel wide")
        if mel_bands < 16 or mel_bands % 16:
            raise UserError(f"mel_bands={mel_bands}: must be a multiple of 16 (four blocks halve it)")
        require_one_of("mel_scale", mel_scale, "htk", "slaney")
        require_one_of("mel_norm", mel_norm, None, "slaney")
        require_one_of("mask_expansion", mask_expansion, "average", "nearest")
        require_one_of("tap_stage", tap_stage, "output", "norm", "conv")
        self.sample_rate_hz = sample_rate_hz
        self.tap_stage = tap_stage
        self.compression = compression
        self.mask_floor = 0.0 if mask_floor is None else 10 ** (mask_floor / 20)
        self.stft = Stft(512, 256, window)
        self.mel_bands = mel_bands
        with torch.device("cpu"):  # real values also when the model itself is built on the meta device
            bank = _mel_bank(self.stft.bins, mel_bands, sample_rate_hz, mel_scale, mel_norm)
            self.register_buffer("mel", bank, persistent=False)
            self.register_buffer("expand", _gain_map(bank, mask_expansion), persistent=False)
        widths = [1, *channels]
        shared: dict[str, Any] = {"slope": slope, "norm_over_time": norm_over_time}
        self.encoder = nn.ModuleList(CausalBlock(a, b, up=False, **shared) for a, b in pairwise(widths))
        gru_slope = slope if gru_activation else None
        self.bottleneck = GroupedGru(channels[-1], mel_bands // 2**DEPTH, gru_groups, gru_slope)
        self.skips = nn.ModuleList(nn.Conv2d(c, c, 1) for c in reversed(channels))
        down = list(reversed(widths))
        self.decoder = nn.ModuleList(
            CausalBlock(a, b, up=True, last=i == DEPTH - 1, **shared) for i, (a, b) in enumerate(pairwise(down))
        )

    mel: Tensor
    expand: Tensor

    def forward(self, noisy: Tensor) -> Estimate:
        spectrum = self.stft(noisy)
        mask = self.mel_mask(self.features(spectrum))
        enhanced = spectrum * self.bin_gain(mask)
        return Estimate(self.stft.inverse(enhanced, noisy.shape[-1]), enhanced, mask)

    def features(self, spectrum: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` to compressed mel magnitudes ``[B, 1, T, 80]``."""
        magnitude = (spectrum.real * spectrum.real).addcmul_(spectrum.imag, spectrum.imag).add_(1e-12).sqrt_()
        mel = product(magnitude.transpose(1, 2), self.mel)
        return mel.clamp_min(1e-8).pow(self.compression).unsqueeze(1)

    def mel_mask(self, features: Tensor, run: Callable[[str, Any, Tensor], Tensor] = whole) -> Tensor:
        """Features ``[B, 1, T, 80]`` to the mel mask ``[B, 1, T, 80]``."""
        outputs = self.encode(features, run)
        x = run("bottleneck", self.bottleneck, outputs[-1])
        for i, (block, skip) in enumerate(zip(self.decoder, self.skips, strict=True)):
            x = run(f"decoder{i}", block, join_skip(x, skip, outputs[-1 - i]))
        return x

    def bin_gain(self, mask: Tensor) -> Tensor:
        """Mel mask ``[B, 1, T, 80]`` to a gain per bin ``[B, F, T]``; ones give ones."""
        gain = product(exact(mask).squeeze(1), self.expand)
        return gain.clamp_min(self.mask_floor).transpose(1, 2) if self.mask_floor > 0 else gain.transpose(1, 2)

    def taps(self) -> dict[str, Tap]:
        """Nine blocks: four of the encoder, the GRU, four of the decoder (the last one's output is the mask)."""
        stage = "" if self.tap_stage == "output" else f".{self.tap_stage}"
        # (at "conv" the decoder's taps hold one frame more: the transposed convolution's tail, cropped afterwards)
        bottleneck = {"bottleneck": Tap("bottleneck", group="bottleneck")}
        return block_taps("encoder", DEPTH, stage) | bottleneck | block_taps("decoder", DEPTH, stage)

    @classmethod
    def presets(cls) -> list[dict[str, Any]]:
        """The students of the paper's Table 4 (widths are the fact sheet's best candidates)."""
        return [{"channels": c} for c in ([4, 8, 16, 24], [8, 16, 32, 32], [8, 32, 64, 64], [16, 32, 64, 80])]

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        """The bottleneck must divide into the GRU groups."""
        frequencies = init_args.get("mel_bands", 80) // 2**DEPTH
        return widths["channels"][-1] * frequencies % init_args.get("gru_groups", 4) == 0

    # --- streaming ---

    def parts(self) -> Iterable[tuple[str, Any, int]]:
        for i, block in enumerate(self.encoder):
            yield f"encoder{i}", block, self.mel_bands // 2**i
        yield "bottleneck", self.bottleneck, self.mel_bands // 2**DEPTH
        for i, block in enumerate(self.decoder):
            yield f"decoder{i}", block, self.mel_bands // 2 ** (DEPTH - i)

    def step_spectrum(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        run = NextFrames(state)
        mask = self.mel_mask(self.features(spectrum), run)
        return spectrum * self.bin_gain(mask), run.new


def _mel_bank(bins: int, bands: int, sample_rate_hz: int, mel_scale: str, norm: str | None) -> Tensor:
    """Triangular mel filters ``[bins, bands]`` from 50 Hz to the Nyquist frequency (8 kHz in the paper)."""
    melscale_fbanks = required("torchaudio.functional", "melscale_fbanks")
    return melscale_fbanks(bins, 50.0, sample_rate_hz / 2, bands, sample_rate_hz, norm=norm, mel_scale=mel_scale)


def _gain_map(bank: Tensor, expansion: str) -> Tensor:
    """The matrix ``[bands, bins]`` that spreads a mel mask over bins; its columns sum to one.

    Bins that no band covers (0, 1 and 256 with the paper's settings) take the nearest covered bin's strongest band.
    """
    weights = bank.t().clone()
    if expansion == "nearest":
        weights = torch.nn.functional.one_hot(weights.argmax(0), len(weights)).t() * (weights.sum(0) > 0)
    covered = weights.sum(0) > 0
    places = torch.arange(weights.shape[1])
    for bin_index in places[~covered]:
        nearest = places[covered][(places[covered] - bin_index).abs().argmin()]
        weights[weights[:, nearest].argmax(), bin_index] = 1
    weights = weights.float()
    return weights / weights.sum(0, keepdim=True)
