"""Relational knowledge distillation (RKD): the shape of the cloud of items, by distances or by angles.

Park et al., "Relational knowledge distillation", CVPR 2019, equations 4 to 9 (from memory).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdse.objectives.items import ItemRelations
from kdse.objectives.layerwise import SILENCE

CLOSEST = 1e-3
"""Items nearer to each other than this share of the mean distance count as closer than any direction can tell: the
sides of their angles fade to zero, which bounds the gradient. Our choice."""


class RelationalDistance(ItemRelations):
    """RKD-D: Huber loss between normalised pairwise distances.

    ``psi(i, j) = || x_i - x_j || / mu``, ``mu`` the mean of the distances over all pairs i != j of the group;
    ``L = sum_{i != j} huber(psi_T(i, j) - psi_S(i, j))`` (``reduction="sum"``, the paper's sum over ordered pairs),
    huber with its bend at 1. Level and width cancel in ``psi``.

    Identical items have distance 0 and no gradient there; a group of silence (mean distance below 1e-5 rms) gives
    distances near 0. At least three items: with two ``psi`` is 1 whatever the networks do.

    Args:
        per: what is related, "item" (whole items; the paper), "frame" (items, frame by frame) or "time" (the frames
            within an item); see `kdse.objectives.items.ItemRelations`.
        features: "flat" or "pooled" feature vectors: C x T x F or C values an item, C x F or C a frame.
        gather: under DDP relate the items of the global batch; no effect with per: "time".
        reduction: "mean" over ordered pairs and taps (our choice, and the authors'), or the paper's "sum".
        weight: factor on the value. The paper uses 25 in classification.
        pairs: taps to compare; see `Objective`.
    """

    least = 3

    def __init__(
        self,
        per: str = "item",
        features: str = "flat",
        gather: bool = True,
        reduction: str = "mean",
        weight: float = 1.0,
        pairs: str | list[list[str]] = "all",
    ) -> None:
        super().__init__(per, features, gather, reduction, weight, pairs)

    def relation(self, teacher: Tensor, student: Tensor) -> Tensor:
        count = teacher.shape[1]
        cost = F.huber_loss(relative_distances(student), relative_distances(teacher), reduction="sum")
        total = cost / teacher.shape[0]  # i = j adds nothing: both distances are 0
        return total if self.reduction == "sum" else total / (count * (count - 1))


class RelationalAngle(ItemRelations):
    """RKD-A: Huber loss between the cosines of the angles that three items form.

    ``psi(i, j, k) = cos angle(x_i, x_j, x_k) = < e_ij, e_kj >``, ``e_ij = (x_i - x_j) / || x_i - x_j ||``;
    ``L = sum huber(psi_T - psi_S)`` over ordered triplets of distinct items (``reduction="sum"``).
    Time and memory grow with the cube of a group: B^3 per "item", T B^3 per "frame", B T^3 per "time" (B = 32 and
    T = 126: 33 thousand, 4 million and 64 million cosines a pair of taps).

    The cosine comes from the three distances (law of cosines), so that no difference vectors ``[N, N, D]`` are kept.
    Items closer than a thousandth of the mean distance give cosines that fade to 0; identical items and silence have
    finite values and gradients. At least three items.

    Args:
        per: what is related, "item" (whole items; the paper), "frame" (items, frame by frame) or "time" (the frames
            within an item); see `kdse.objectives.items.ItemRelations`.
        features: "flat" or "pooled" feature vectors: C x T x F or C values an item, C x F or C a frame.
        gather: under DDP relate the items of the global batch; no effect with per: "time".
        reduction: "mean" over ordered triplets and taps (our choice, and the authors'), or the paper's "sum".
        weight: factor on the value. The paper uses 50 in classification.
        pairs: taps to compare; see `Objective`.
    """

    least = 3

    def __init__(
        self,
        per: str = "item",
        features: str = "flat",
        gather: bool = True,
        reduction: str = "mean",
        weight: float = 1.0,
        pairs: str | list[list[str]] = "all",
    ) -> None:
        super().__init__(per, features, gather, reduction, weight, pairs)

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
