"""SI-SDR to the teacher's waveform: the output distillation of Distil-DCCRN (Han et al., 2024, arXiv 2408.04267)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdse.losses.si_sdr import si_sdr
from kdse.objectives.base import Exchange, Objective
from kdse.precision import exact


class SiSdrDistillation(Objective):
    """Negative SI-SDR, in dB, of the student's waveform against the teacher's, averaged over the batch.

    Needs no taps, so any teacher will do. Scale is free, as in `kdse.losses.SiSdr`, and means are not removed. The
    paper balances this with the same loss against clean speech: give that as ``model.loss`` and the factor between
    the two as weights (its value is unknown to us).

    Silence is finite and costs a constant: an item whose teacher alone is silent +80 dB (its small gradient says only
    to be quieter, and fades above about -60 dB of full scale), one whose student is silent 0 dB without a gradient.

    Args:
        weight: factor on the value.
    """

    uses_taps = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, pairs=None)

    def loss(self, exchange: Exchange) -> Tensor:
        assert exchange.teacher is not None
        return self.compare([exchange.teacher.waveform], [exchange.student.waveform])

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The bare equation on one waveform ``[B, N]`` of each network.

        Raises:
            ValueError: if the shapes differ.
        """
        (a,), (b,) = teacher, student
        if a.shape != b.shape:
            raise ValueError(
                f"objectives.{self.name}: the teacher's waveform is {[*a.shape]} and the student's {[*b.shape]}; both "
                "models must return as many samples as they are given"
            )
        with torch.autocast(a.device.type, enabled=False):
            return -si_sdr(exact(b), exact(a.detach())).mean()
