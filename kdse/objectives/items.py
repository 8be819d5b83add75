"""Objectives that compare how the items of a batch relate to each other: what an item is, and its feature vector."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdse.errors import UserError, require_one_of
from kdse.objectives.base import Gathering
from kdse.objectives.layerwise import Layerwise
from kdse.objectives.vectors import frame_vectors


class ItemRelations(Gathering, Layerwise):
    """Base of objectives on groups of feature vectors. Subclasses implement `relation`.

    The papers have one vector an image. An activation ``[B, C, T, F]`` offers more; which is our choice:

    ========  =======================  =============  ===============================================
    per       a group holds            groups         vector: "flat" or "pooled" (mean over the rest)
    ========  =======================  =============  ===============================================
    "item"    the B items              1              C x T x F, or C
    "frame"   the B items              T, one a time  C x F, or C
    "time"    the T frames of an item  B, one a clip  C x F, or C
    ========  =======================  =============  ===============================================

    Only "time" works with a batch of one (and has no use for ``gather``), and costs grow with T^2 where the others'
    grow with B^2. Lengths of vectors may differ between teacher and student: no heads are needed. Groups are always
    averaged.

    Args:
        per: what is related: "item" (whole items, as in the papers), "frame" (items, frame by frame) or "time" (the
            frames within an item).
        features: "flat" or "pooled" vectors: C x T x F or C values an item, C x F or C a frame.
    """

    least = 2  # vectors that a group must hold for the objective to mean something

    def __init__(self, per: str = "item", features: str = "flat", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_one_of("per", per, "item", "frame", "time")
        require_one_of("features", features, "flat", "pooled")
        self.per, self.features = per, features
        self.agree = "b" if per == "item" else "bt"

    def gathered(self, activations: list[Tensor]) -> list[Tensor]:
        return activations if self.per == "time" else super().gathered(activations)

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        a, b = self.vectors(teacher), self.vectors(student)
        count = a.shape[1]
        if count < self.least and self.per == "time":
            raise UserError(
                f"objectives.{self.name}: {count} frames in an item, it needs at least {self.least}; use longer clips"
            )
        if count < self.least:
            raise UserError(
                f"objectives.{self.name}: {count} items in the batch, it needs at least {self.least}; raise the batch "
                'size (and drop a last, short batch), or set per: "time", which compares the frames of one item'
            )
        return self.relation(a, b)

    def relation(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Value of one pair, from vectors ``[groups, N, D_T]`` and ``[groups, N, D_S]``, mean over groups."""
        raise NotImplementedError

    def vectors(self, x: Tensor) -> Tensor:
        """``[B, C, T, F]`` to ``[groups, N, D]``, see the table above."""
        if self.per == "item":
            return (x.flatten(1) if self.features == "flat" else x.mean((2, 3)))[None]
        rows = frame_vectors(x) if self.features == "flat" else x.mean(3).transpose(1, 2)  # [B, T, D]
        return rows.transpose(0, 1) if self.per == "frame" else rows
