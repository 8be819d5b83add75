"""Hints: a regressor predicts the teacher's features from the student's (FitNets).

Romero et al., "FitNets: Hints for thin deep nets", ICLR 2015, equation 3 (from memory).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdse.objectives.base import Exchange
from kdse.objectives.layerwise import Layerwise, project
from kdse.objectives.shapes import require_equal, resample


class Hint(Layerwise):
    """Squared error between the teacher's features and a regression of the student's.

    Per item, with teacher features ``t`` and student features ``s``, each ``[C, T, F]``:
    ``L = 1/2 || t - r(s) ||^2`` (``reduction="sum"``: summed over an item's values and over pairs, and averaged over
    the items of a batch). ``r`` is a 1x1 convolution with bias from the student's channels to the teacher's: one
    linear map, shared by all bins. The paper's ``r`` is a convolution without padding that also brings the spatial
    size down, followed by the hint layer's own nonlinearity; ours leaves T and F alone and stays linear, since a tap
    may lie before or after its nonlinearity. The head is trained with the student and dropped on export. The paper
    has one hint, in the middle of the network, and trains up to it first; all pairs at once is our default: name
    one pair and use `kdse.schedule.TwoStep` for the paper's procedure.

    Silence: finite value and gradient. Under DDP each item stands for itself, so nothing is gathered.

    Args:
        resample: bring the student's frames and frequencies to the teacher's where they differ (averages where an
            axis shrinks, interpolates where it grows); otherwise a difference is an error.
        reduction: "mean" is the plain mean squared error over all values, items and pairs (our choice);
            "sum" is the paper's equation.
        weight: factor on the value.
        pairs: taps to compare; see `Objective`.
    """

    def __init__(
        self,
        resample: bool = False,
        reduction: str = "mean",
        weight: float = 1.0,
        pairs: str | list[list[str]] = "all",
    ) -> None:
        super().__init__(reduction, weight, pairs)
        self.resample = resample
        self.agree = "bctf"

    def build_heads(
        self, teacher_shapes: Mapping[str, torch.Size], student_shapes: Mapping[str, torch.Size]
    ) -> nn.ModuleDict:
        heads = nn.ModuleDict()
        for index, (t, s) in enumerate(self.bound_pairs):
            if not self.resample:
                require_equal(self.name, (t, s), teacher_shapes[t], student_shapes[s], "tf")
            heads[str(index)] = nn.Conv2d(student_shapes[s][1], teacher_shapes[t][1], kernel_size=1)
        return heads

    def loss(self, exchange: Exchange) -> Tensor:
        teacher, student = self.activations(exchange)
        student = project(exchange.heads, student)
        if self.resample:
            student = [resample(b, *a.shape[2:]) for a, b in zip(teacher, student, strict=True)]
        return self.compare(teacher, student)

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        gap = (teacher - student).square()
        return gap.mean() if self.reduction == "mean" else 0.5 * gap.sum() / teacher.shape[0]
