"""Hints: a regressor predicts the teacher's features from the student's (FitNets).

Romero et al., "FitNets: Hints for thin deep nets", ICLR 2015, equation 3 (from memory).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdse.objectives.base import Exchange, Shapes
from kdse.objectives.layerwise import Layerwise, pointwise_heads, project
from kdse.objectives.shapes import require_equal, resample


class Hint(Layerwise):
    """Squared error between the teacher's features and a regression of the student's.

    Per item, with teacher features ``t`` and student features ``s``, each ``[C, T, F]``: ``L = 1/2 || t - r(s) ||^2``.
    ``reduction="sum"`` sums over an item's values and over pairs and averages over items, as the paper; "mean" is the
    plain mean squared error over all values, items and pairs (our choice).

    ``r`` is a 1x1 convolution with bias from the student's channels to the teacher's, a head that is trained with the
    student and dropped on export. The paper's is a larger convolution that also brings the spatial size down, followed
    by the hint layer's own nonlinearity; ours leaves T and F alone and stays linear, since a tap may lie before or
    after its nonlinearity. The paper has one hint, in the middle of the network, and trains up to it first; all pairs
    at once is our default: name one pair and use `kdse.schedule.TwoStep` for the paper's procedure.

    Args:
        resample: bring the student's frames and frequencies to the teacher's where they differ (averages where an
            axis shrinks, interpolates where it grows); otherwise a difference is an error.
    """

    agree = "bctf"

    def __init__(self, resample: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.resample = resample

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        for t, s in self.bound_pairs:
            require_equal(self.name, (t, s), teacher_shapes[t], student_shapes[s], "" if self.resample else "tf")
        return pointwise_heads(self.bound_pairs, teacher_shapes, student_shapes)

    def loss(self, exchange: Exchange) -> Tensor:
        teacher, student = self.activations(exchange)
        student = project(exchange.heads, student)
        if self.resample:
            student = [resample(b, *a.shape[2:]) for a, b in zip(teacher, student, strict=True)]
        return self.compare(teacher, student)

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        gap = (teacher - student).square()
        return gap.mean() if self.reduction == "mean" else 0.5 * gap.sum() / teacher.shape[0]
