"""Attention maps as distributions: the student's energy lies along frequency where the teacher's does.

Our reading of AT-KL, the feature distillation of Distil-DCCRN (Han et al., IEEE SPL 2024, arXiv 2408.04267). We know
from the paper that encoder and decoder layers are paired by index, that the bottlenecks are not distilled, and that
attention transfer is joined with a Kullback-Leibler divergence so that channels and frames may differ. Its equations
were not available to us: the map is that of Zagoruyko & Komodakis (ICLR 2017), the rest is our choice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdse.errors import UserError, require_at_least, require_one_of, require_positive
from kdse.objectives.base import Taps
from kdse.objectives.layerwise import Layerwise
from kdse.objectives.shapes import resample
from kdse.precision import exact

BLOCKS = "blocks"


class AttentionKl(Layerwise):
    """KL divergence of the two networks' attention maps, after Distil-DCCRN. Has no parameters.

    Per pair, a map A is made of each activation X ``[B, C, T, F]`` so that C (and T) vanish; each row of A becomes
    ``P = softmax(A / (temperature ||A||_2))``, and the value is ``KL(P_T || P_S)``, averaged over rows and batch.
    Frequencies must agree; channels never need to, nor do frames (hops). An all-zero map gives the uniform
    distribution: on silence value and gradient are finite.

    With F entries and temperature 1 the value is at most (e - 1) / (e + F - 1), 0.013 for 128, so it takes a large
    weight, a lower temperature or ``--model.balance_gradients true`` to matter beside a loss in dB.

    Args:
        attention: what the map is. "frequency": energy by frequency, ``A_f = mean_t sum_c |X|^p``, one row an item.
            "time_frequency": ``A_tf = sum_c |X|^p``, one row a frame; the teacher's frames are brought to the
            student's (averaged or interpolated, the clip as a whole). "self_similarity": which frequencies move
            together, ``A_fg = sum_ct X_ctf X_ctg``, one row a frequency f.
        power: the p of |X|^p; "self_similarity" does not use it.
        temperature: divides the normalised map before the softmax. Entries of a normalised row are at most 1, so
            values above 1 make nearly uniform distributions.
        direction: "teacher_student" is KL(P_T || P_S), "student_teacher" KL(P_S || P_T).
        scale_by_temperature: multiply by temperature squared (Hinton et al. 2015), which keeps the gradient's size.
        rows: "each" as above; "together" normalises the whole map and takes one softmax over all its entries. Over
            thousands of entries that is nearly uniform and the value is tiny: lower the temperature.
        pairs: "blocks" pairs the encoder taps by index and the decoder taps by index and leaves the bottleneck out,
            as in the paper's figure. For the other values see `Objective`.
    """

    agree = "bf"
    named_pairs = (BLOCKS, *Layerwise.named_pairs)

    def __init__(
        self,
        attention: str = "frequency",
        power: float = 2.0,
        temperature: float = 1.0,
        direction: str = "teacher_student",
        scale_by_temperature: bool = False,
        rows: str = "each",
        pairs: str | list[list[str]] = BLOCKS,
        **kwargs: Any,
    ) -> None:
        super().__init__(pairs=pairs, **kwargs)
        require_one_of("attention", attention, "frequency", "time_frequency", "self_similarity")
        require_one_of("direction", direction, "teacher_student", "student_teacher")
        require_one_of("rows", rows, "each", "together")
        require_at_least(1, power=power)  # below, the gradient at zero is infinite
        require_positive(temperature=temperature)
        self.attention, self.power, self.temperature, self.direction = attention, power, temperature, direction
        self.scale_by_temperature, self.rows = scale_by_temperature, rows

    def group_pairs(self, group: str, teacher: Taps, student: Taps) -> list[tuple[str, str]]:
        groups = ("encoder", "decoder") if group == BLOCKS else (group,)
        return [pair for each in groups for pair in super(AttentionKl, self).group_pairs(each, teacher, student)]

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        log_t, log_s = (self._distribution(x, student.shape[2]) for x in (teacher, student))
        return _kl(log_t, log_s) if self.direction == "teacher_student" else _kl(log_s, log_t)

    def reduce(self, terms: list[Tensor]) -> Tensor:
        total = super().reduce(terms)
        return total * self.temperature**2 if self.scale_by_temperature else total

    def _distribution(self, x: Tensor, frames: int) -> Tensor:
        """Log-probabilities ``[B, rows, entries]`` of the map of ``[B, C, T, F]``, its frames brought to ``frames``."""
        scores = self._map(exact(x), frames)
        if self.rows == "together":
            scores = scores.flatten(1)[:, None]
        if scores.shape[-1] < 2:
            raise UserError(
                f"objectives.{self.name}: activations with one frequency (time-domain models) leave nothing to compare "
                'with rows: "each"; use attention: "time_frequency" with rows: "together", or MultiViewAttention'
            )
        return F.log_softmax(F.normalize(scores, dim=-1) / self.temperature, dim=-1)

    def _map(self, x: Tensor, frames: int) -> Tensor:
        # means where the equations have sums: the row norm cancels the factor, and large maps stay in range
        if self.attention == "self_similarity":
            columns = x.flatten(1, 2)
            return columns.transpose(1, 2) @ columns / columns.shape[1]
        energy = x.abs().pow(self.power).mean(1, keepdim=True)
        return energy.mean(2) if self.attention == "frequency" else resample(energy, frames=frames)[:, 0]


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum p log(p / q)`` over the last axis, averaged over the others.

    Computed as ``sum p log(p / q) + q - p``, the same since both sum to one: no term is negative, and what rounding
    leaves of the softmax's normalisation enters squared, so that nearly equal distributions keep their digits.
    """
    ratio = log_p - log_q
    p = log_p.exp()
    near = ratio.abs() < 1
    change = torch.where(near, p * torch.expm1(-torch.where(near, ratio, 0.0)), log_q.exp() - p)
    return (p * ratio + change).sum(-1).mean()
