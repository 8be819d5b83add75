"""Frame-weighted Jeffreys divergence between the batch-similarity distributions of teacher and student."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from kdse.objectives.review_fusion import ReviewObjective
from kdse.objectives.shapes import require_equal
from kdse.precision import exact

EPSILON = 1e-6  # the authors'


class FrameWeightedJeffreys(ReviewObjective):
    """Residual fusion probabilistic distillation (UCLFWPKD, Cheng et al.), after the authors' demonstration code.

    Per level and frame t, with x the ``[b, C F]`` activation: ``s[i, j] = (cos(x_i, x_j) + 1) / 2``,
    ``P = s / sum_j s`` and ``w[i] = sigmoid(mean of the teacher's x_i)``; the level's value is
    ``sum_t mean_ij w[i] (P_T - P_S) (log P_T - log P_S)``, summed over the levels of encoder, bottleneck and decoder,
    each a chain of its own. The paper itself was not read.

    Cosines are computed with 1e-6 added to the norms, as the authors do; similarities are kept above 1e-6 (our
    choice: opposite items would give log 0). A fused level takes the teacher's frame count (nearest neighbours, our
    choice). To have one student bottleneck follow several teacher blocks, as the authors do, pair it with each.

    Needs at least two items: with one, every probability is 1 and the value is 0, with a warning.

    Args:
        norm: normalisation in the fusion: "instance" (InstanceNorm and PReLU, the authors') or "batch".
        mid_channels: channels of the carried feature, 128 in the authors' code; None for ``min(512, channels of the
            deepest student level)``.
        reduction: "mean" averages over frames and levels (our choice); "sum" is the authors' sum.
        gather: under DDP compare the global batch, not each process's own.
        weight: factor on the value. The authors' is unknown; values are small, since probabilities are near 1/b.
        pairs: taps to compare; see `Objective`.
    """

    def __init__(
        self,
        norm: str = "instance",
        mid_channels: int | None = 128,
        reduction: str = "mean",
        gather: bool = True,
        weight: float = 1.0,
        pairs: str | list[list[str]] = "all",
    ) -> None:
        super().__init__(norm, mid_channels, reduction, weight, pairs)
        self.gather = gather

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The bare equation on activations ``[B, C, T, F]``; channels and frequencies may differ.

        Raises:
            ValueError: if batch or frames of a level differ.
        """
        values = []
        for pair, a, b in self._levels(teacher, student):
            require_equal(self.name, pair, a.shape, b.shape, "bt")
            if a.shape[0] == 1:
                warnings.warn(f"objectives.{self.name}: a batch of one has nothing to compare: value 0", stacklevel=2)
            with torch.autocast(a.device.type, enabled=False):
                values.append(self._divergence(_rows(a), _rows(b)))
        return self._reduce(values)

    def _divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        p, q = _probabilities(teacher), _probabilities(student)
        weights = torch.sigmoid(teacher.mean(dim=2, keepdim=True))
        frames = (weights * (p - q) * (p.log() - q.log())).mean(dim=(1, 2))
        return frames.sum() if self.reduction == "sum" else frames.mean()


def _rows(x: Tensor) -> Tensor:
    """``[B, C, T, F]`` to ``[T, B, C F]``."""
    return exact(x).permute(2, 0, 1, 3).flatten(2)


def _probabilities(rows: Tensor) -> Tensor:
    """``[T, B, K]`` to ``[T, B, B]``: how much each item resembles the others, rows summing to one."""
    unit = rows / (torch.linalg.vector_norm(rows, dim=2, keepdim=True) + EPSILON)
    similarity = ((unit @ unit.transpose(1, 2) + 1) / 2).clamp_min(EPSILON)
    return similarity / similarity.sum(dim=2, keepdim=True)
