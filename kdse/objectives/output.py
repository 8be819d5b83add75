"""Output (response) distillation: the student's estimate follows the teacher's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdse.errors import UserError, require_one_of
from kdse.losses.si_sdr import si_sdr
from kdse.models.base import Estimate
from kdse.models.stft import Stft, power
from kdse.objectives.base import Exchange, OutputObjective
from kdse.precision import exact, full_precision


class OutputDistillation(OutputObjective):
    """Mean absolute or squared difference of the two outputs.

    The two-step paper compares with "output KD" after Nakaoka et al. 2021 and does not spell out its distance.

    Args:
        on: "waveform" ``[B, N]``, complex "spectrum" ``[B, F, T]`` (real and imaginary parts), compressed
            "magnitude", or "mask" (both models must predict masks of one layout).
        distance: "l1" or "l2" (squared).
        compression: power on the magnitude; 0.3 is our choice, CRUSE's own.
        n_fft: frame length of the spectrum in samples.
        hop: samples between its frames.
        window: of the spectrum, "sqrt_hann" or "hann".
    """

    def __init__(
        self,
        on: str = "waveform",
        distance: str = "l1",
        compression: float = 0.3,
        n_fft: int = 512,
        hop: int = 256,
        window: str = "sqrt_hann",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_one_of("on", on, "waveform", "spectrum", "magnitude", "mask")
        require_one_of("distance", distance, "l1", "l2")
        if not 0 < compression <= 1:
            raise UserError(f"compression={compression} must lie in (0, 1]")
        self.on, self.distance, self.compression = on, distance, compression
        self.stft = Stft(n_fft, hop, window)

    def loss(self, exchange: Exchange) -> Tensor:
        assert exchange.teacher is not None
        self.stft = self.stft.to(exchange.noisy.device)
        return self.compare([self._view(exchange.teacher)], [self._view(exchange.student)])

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The bare equation on outputs of equal shape."""
        (a,), (b,) = teacher, student
        self.require_equal_shapes(a, b, self.on, 'compare on: "waveform"')
        return self.distances(a, b).mean()

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Absolute or squared difference, entry by entry."""
        return (b - a).abs() if self.distance == "l1" else (b - a).square()

    def _view(self, estimate: Estimate) -> Tensor:
        if self.on == "mask":
            if estimate.mask is None:
                raise UserError(f'objectives.{self.name}: a model without a mask; use on: "waveform"')
            return exact(estimate.mask)
        if self.on == "waveform":
            return exact(estimate.waveform)
        return self.spectral_view(self.stft(estimate.waveform))

    def spectral_view(self, spectrum: Tensor) -> Tensor:
        """What is compared of a complex spectrum ``[B, F, T]``: real and imaginary part, or compressed magnitude."""
        if self.on == "spectrum":
            return torch.view_as_real(spectrum)
        return (power(spectrum) + 1e-12).pow(0.5 * self.compression)


class SiSdrDistillation(OutputObjective):
    """Negative SI-SDR, in dB, of the student's waveform against the teacher's, averaged over the batch.

    Scale is free, as in `kdse.losses.SiSdr`, and means are not removed. The
    paper balances this with the same loss against clean speech: give that as ``model.loss`` and the factor between
    the two as weights (its value is unknown to us).

    Silence is finite and costs a constant: an item whose teacher alone is silent +80 dB (its small gradient says only
    to be quieter, and fades above about -60 dB of full scale), one whose student is silent 0 dB without a gradient.
    """

    def loss(self, exchange: Exchange) -> Tensor:
        assert exchange.teacher is not None
        return self.compare([exchange.teacher.waveform], [exchange.student.waveform])

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The bare equation on one waveform ``[B, N]`` of each network."""
        (a,), (b,) = teacher, student
        self.require_equal_shapes(a, b, "waveform", "both models must return as many samples as they are given")
        with full_precision(a.device):
            return -si_sdr(exact(b), exact(a.detach())).mean()
