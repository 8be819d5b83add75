"""`DualPathUNet`: the network that GTCRN and UL-UNAS share, without their features and blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.base import Estimate, Tap
from kdse.models.dual_path_layers import DualPath, ErbBands
from kdse.models.layers import NextFrames, State, whole
from kdse.models.spectral import SpectralModel, block_taps
from kdse.models.stft import Stft
from kdse.precision import exact

#: Blocks of the encoder, and of the decoder, which mirrors it. The first two halve the bands.
DEPTH = 5
DUAL_PATHS = 2


class DualPathUNet(SpectralModel):
    """Causal U-Net on ERB bands around grouped dual-path recurrences, which predicts a mask.

    Subclasses set `encoder` and `decoder`, blocks as in `kdse.models.layers` that turn `band_counts` into each other,
    and implement `features`.

    Args:
        channels: of the encoder's last block, a multiple of 4.
        window, n_fft, hop: of the STFT.
        linear_bins, erb_bands, sample_rate_hz: see `ErbBands`.
    """

    causal = True
    decoder: nn.ModuleList

    def __init__(
        self, channels: int, window: str, n_fft: int, hop: int, linear_bins: int, erb_bands: int, sample_rate_hz: int
    ) -> None:
        super().__init__()
        if (linear_bins + erb_bands) % 4 != 1:
            raise UserError(
                f"linear_bins={linear_bins}, erb_bands={erb_bands}: together they must be a multiple of 4, and one "
                "more, because two blocks halve the bands and two double them"
            )
        self.stft = Stft(n_fft, hop, window)
        self.sample_rate_hz, self.hop_samples = sample_rate_hz, hop
        self.latency_samples, self.lookahead_samples = n_fft, n_fft - 2  # a frame's first sample has zero weight
        self.bands = ErbBands(n_fft, linear_bins, erb_bands, sample_rate_hz)
        half = (self.bands.count + 1) // 2
        self.band_counts = [self.bands.count, half, *[(half + 1) // 2] * (DEPTH - 1)]  # before and after each block
        self.dual_path = nn.ModuleList(DualPath(channels, self.band_counts[-1]) for _ in range(DUAL_PATHS))

    def forward(self, noisy: Tensor) -> Estimate:
        """Enhances ``[B, N]``; the mask is ``[B, 1, T, F]``, or real and imaginary part ``[B, 2, T, F]``."""
        spectrum = self.stft(noisy)
        mask = self.predict(self.features(spectrum))
        enhanced = self.apply_mask(spectrum, mask)
        return Estimate(self.stft.inverse(enhanced, noisy.shape[-1]), enhanced, mask)

    def features(self, spectrum: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` to what the encoder takes, ``[B, C, T, bands]``."""
        raise NotImplementedError

    def predict(self, features: Tensor, run: Callable[[str, Any, Tensor], Tensor] = whole) -> Tensor:
        """Features to the mask of each bin, ``[B, 1 or 2, T, F]``."""
        outputs = self.encode(features, run)
        x = outputs[-1]
        for i, path in enumerate(self.dual_path):
            x = run(f"dual_path{i}", path, x)
        for i, block in enumerate(self.decoder):
            x = run(f"decoder{i}", block, x + outputs[-1 - i])
        return self.bands.split(exact(x))

    def apply_mask(self, spectrum: Tensor, mask: Tensor) -> Tensor:
        """Complex spectrum ``[B, F, T]`` under a mask of `predict`: times a gain, or as a complex product."""
        real, *imaginary = mask.transpose(2, 3).unbind(1)
        return spectrum * (self.stft.join(real, imaginary[0]) if imaginary else real)

    def taps(self) -> dict[str, Tap]:
        """All blocks. The second dual path is the "bottleneck", the first belongs to no group, so that models with
        one recurrence pair; the last decoder block's output is the mask in bands."""
        taps = block_taps("encoder", DEPTH) | {"dual_path0": Tap("dual_path.0")}
        return taps | {"bottleneck": Tap("dual_path.1", group="bottleneck")} | block_taps("decoder", DEPTH)

    # --- streaming ---

    def parts(self) -> Iterable[tuple[str, Any, int]]:
        for name, blocks, counts in (
            ("encoder", self.encoder, self.band_counts),
            ("dual_path", self.dual_path, self.band_counts[:-3:-1]),
            ("decoder", self.decoder, self.band_counts[::-1]),
        ):
            for i, (block, bands) in enumerate(zip(blocks, counts, strict=False)):
                yield f"{name}{i}", block, bands

    def step_spectrum(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        run = NextFrames(state)
        mask = self.predict(self.features(spectrum), run)
        return self.apply_mask(spectrum, mask), run.new


def power(spectrum: Tensor) -> Tensor:
    """Squared magnitude of a complex spectrum ``[B, F, T]``, as ``[B, T, F]``."""
    return (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
