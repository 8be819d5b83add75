"""Relational knowledge distillation (RKD): the shape of the cloud of items, by distances or by angles.

Park et al., "Relational knowledge distillation", CVPR 2019, equations 4 to 9 (from memory).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdse.objectives.items import ItemRelations
from kdse.objectives.vectors import SILENCE

#: Items nearer to each other than this share of the mean distance count as closer than any direction can tell: the
#: sides of their angles fade to zero, which bounds the gradient. Our choice.
CLOSEST = 1e-3


class RelationalDistance(ItemRelations):
    """RKD-D: Huber loss between normalised pairwise distances of at least three items.

    ``psi(i, j) = || x_i - x_j || / mu``, ``mu`` the mean of the distances over all pairs i != j of the group;
    ``L = sum_{i != j} huber(psi_T(i, j) - psi_S(i, j))`` (``reduction="sum"``, the paper's sum over ordered pairs),
    huber with its bend at 1. Level and width cancel in ``psi``; of two items it is 1 whatever the networks do.

    "mean" (our choice) is over the N (N - 1) ordered pairs and over taps. The authors' code averages over all N^2
    entries instead, i = j included: ours is larger by N / (N - 1), and the paper's weight of 25 (for classification)
    does not carry over as it is.

    Identical items have distance 0 and no gradient there; a group of silence (mean distance below 1e-5 rms) gives
    distances near 0.
    """

    least = 3

    def relation(self, teacher: Tensor, student: Tensor) -> Tensor:
        count = teacher.shape[1]
        cost = F.huber_loss(relative_distances(student), relative_distances(teacher), reduction="sum")
        total = cost / teacher.shape[0]  # i = j adds nothing: both distances are 0
        return total if self.reduction == "sum" else total / (count * (count - 1))


class RelationalAngle(ItemRelations):
    """RKD-A: Huber loss between the cosines of the angles that three items form; at least three items.

    ``psi(i, j, k) = cos angle(x_i, x_j, x_k) = < e_ij, e_kj >``, ``e_ij = (x_i - x_j) / || x_i - x_j ||``;
    ``L = sum huber(psi_T - psi_S)`` over ordered triplets of distinct items (``reduction="sum"``). "mean" (our choice)
    is over the N (N - 1) (N - 2) triplets and over taps. The authors' code averages over all N^3 entries: ours is
    larger by N^2 / ((N - 1) (N - 2)), and the paper's weight of 50 (for classification) does not carry over as it is.

    Time and memory grow with the cube of a group: B^3 per "item", T B^3 per "frame", B T^3 per "time" (B = 32 and
    T = 126: 33 thousand, 4 million and 64 million cosines a pair of taps). The cosine comes from the three distances
    (law of cosines), so that no difference vectors ``[N, N, D]`` are kept. Items closer than a thousandth of the mean
    distance give cosines that fade to 0; identical items and silence have finite values and gradients.
    """

    least = 3

    def relation(self, teacher: Tensor, student: Tensor) -> Tensor:
        groups, count = teacher.shape[:2]
        same = torch.eye(count, dtype=torch.bool, device=teacher.device)
        distinct = ~(same[:, :, None] | same[:, None, :] | same[None, :, :])
        cost = F.huber_loss(_cosines(student), _cosines(teacher), reduction="none")
        total = (cost * distinct).sum() / groups
        return total if self.reduction == "sum" else total / (count * (count - 1) * (count - 2))


def _cosines(x: Tensor) -> Tensor:
    """Vectors ``[groups, N, D]`` to cosines ``[groups, j, i, k]`` of the angle at j between i and k."""
    sides = relative_distances(x)
    squares, lengths = sides.square(), sides.clamp_min(CLOSEST)
    opposite = squares[:, :, :, None] + squares[:, :, None, :] - squares[:, None, :, :]
    return opposite / (2 * lengths[:, :, :, None] * lengths[:, :, None, :])


def relative_distances(x: Tensor) -> Tensor:
    """Euclidean distances ``[groups, N, N]`` over the mean of those between different vectors of ``[groups, N, D]``."""
    distances: Tensor = _Distances.apply(x)
    count = x.shape[1]
    mean = distances.sum((1, 2), keepdim=True) / (count * (count - 1))
    return distances / mean.clamp_min(SILENCE * x.shape[2] ** 0.5)


class _Distances(torch.autograd.Function):
    """Distances from differences, not from a Gram matrix: that cancels for items that are close, and identical items
    would come out apart. The gradient is 0 where the distance is 0, and one product instead of ``[N, N, D]`` values.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(x, distances)
        return distances

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        x, distances = ctx.saved_tensors  # type: ignore[attr-defined]  # (torch adds it)
        slope = (grads[0] + grads[0].transpose(1, 2)) / distances
        slope = slope.masked_fill(distances == 0, 0.0)
        x = x - x.mean(1, keepdim=True)  # differences do not see it, rounding does
        return slope.sum(2, keepdim=True) * x - slope @ x
