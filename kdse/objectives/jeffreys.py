"""Frame-weighted Jeffreys divergence between the batch-similarity distributions of teacher and student."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from kdse.objectives.base import Gathering
from kdse.objectives.review_fusion import ReviewObjective

EPSILON = 1e-6  # the authors'


class FrameWeightedJeffreys(Gathering, ReviewObjective):
    """Residual fusion probabilistic distillation (UCLFWPKD, Cheng et al.), after the authors' demonstration code.

    Per level and frame t, with x the ``[b, C F]`` activation: ``s[i, j] = (cos(x_i, x_j) + 1) / 2``,
    ``P = s / sum_j s`` and ``w[i] = sigmoid(mean of the teacher's x_i)``; the level's value is
    ``sum_t mean_ij w[i] (P_T - P_S) (log P_T - log P_S)``, summed over the levels of encoder, bottleneck and decoder,
    each a chain of its own (``reduction="sum"``, the authors'), or averaged over frames and levels ("mean", our
    choice). The paper itself was not read; the authors' weight is unknown. Values are small: probabilities near 1/b.

    Cosines are computed with 1e-6 added to the norms, as the authors do; similarities are kept above 1e-6 (our
    choice: opposite items would give log 0). A fused level takes the teacher's frame count (nearest neighbours, our
    choice). To have one student bottleneck follow several teacher blocks, as the authors do, pair it with each.

    Needs at least two items: with one, every probability is 1 and the value is 0, with a warning.

    Args:
        norm: normalisation in the fusion: "instance" (InstanceNorm and PReLU, the authors') or "batch".
        mid_channels: channels of the carried feature, 128 in the authors' code; None for ``min(512, channels of the
            deepest student level)``.
    """

    agree = "bt"

    def __init__(self, norm: str = "instance", mid_channels: int | None = 128, **kwargs: Any) -> None:
        super().__init__(norm=norm, mid_channels=mid_channels, **kwargs)

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        if len(teacher) == 1:
            warnings.warn(f"objectives.{self.name}: a batch of one has nothing to compare: value 0", stacklevel=2)
        teacher, student = (x.permute(2, 0, 1, 3).flatten(2) for x in (teacher, student))  # [T, B, C F]
        p, q = _probabilities(teacher), _probabilities(student)
        weights = torch.sigmoid(teacher.mean(dim=2, keepdim=True))
        frames = (weights * (p - q) * (p.log() - q.log())).mean(dim=(1, 2))
        return frames.sum() if self.reduction == "sum" else frames.mean()


def _probabilities(rows: Tensor) -> Tensor:
    """``[T, B, K]`` to ``[T, B, B]``: how much each item resembles the others, rows summing to one."""
    unit = rows / (torch.linalg.vector_norm(rows, dim=2, keepdim=True) + EPSILON)
    similarity = ((unit @ unit.transpose(1, 2) + 1) / 2).clamp_min(EPSILON)
    return similarity / similarity.sum(dim=2, keepdim=True)
