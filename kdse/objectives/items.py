"""Objectives that compare how the items of a batch relate to each other: what an item is, and its feature vector."""

from __future__ import annotations

from torch import Tensor

from kdse.distributed import gather_batch
from kdse.objectives.base import Exchange
from kdse.objectives.layerwise import SILENCE, Layerwise


class ItemRelations(Layerwise):
    """Base of objectives on groups of feature vectors. Subclasses implement `relation`.

    The papers have one vector an image. An activation ``[B, C, T, F]`` offers more; which is our choice:

    ========  =======================  =============  ===============================================
    per       a group holds            groups         vector: "flat" or "pooled" (mean over the rest)
    ========  =======================  =============  ===============================================
    "item"    the B items              1              C x T x F, or C
    "frame"   the B items              T, one a time  C x F, or C
    "time"    the T frames of an item  B, one a clip  C x F, or C
    ========  =======================  =============  ===============================================

    Only "time" works with a batch of one, and costs grow with T^2 where the others' grow with B^2. Lengths of
    vectors may differ between teacher and student: no heads are needed.

    Args:
        per: see above.
        features: see above.
        gather: under DDP relate the items of the global batch, not of each process's own. "time" has no use for it.
        reduction: of the subclass. Groups are always averaged.
        weight: factor on the value.
        pairs: taps to compare; see `Objective`.
    """

    least = 2  # vectors that a group must hold for the objective to mean something

    def __init__(
        self,
        per: str = "item",
        features: str = "flat",
        gather: bool = True,
        reduction: str = "mean",
        weight: float = 1.0,
        pairs: str | list[list[str]] = "all",
    ) -> None:
        super().__init__(reduction, weight, pairs)
        if per not in ("item", "frame", "time"):
            raise ValueError(f'per={per!r}: use "item", "frame" or "time"')
        if features not in ("flat", "pooled"):
            raise ValueError(f'features={features!r}: use "flat" or "pooled"')
        self.per, self.features, self.gather = per, features, gather
        self.agree = "b" if per == "item" else "bt"

    def activations(self, exchange: Exchange) -> tuple[list[Tensor], list[Tensor]]:
        teacher, student = super().activations(exchange)
        if self.gather and self.per != "time":
            return [gather_batch(x) for x in teacher], [gather_batch(x) for x in student]
        return teacher, student

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        a, b = self.vectors(teacher), self.vectors(student)
        if a.shape[1] < self.least:
            raise ValueError(f"objectives.{self.name}: {self._too_few(a.shape[1])}")
        return self.relation(a, b)

    def _too_few(self, count: int) -> str:
        if self.per == "time":
            return f"{count} frames in an item, it needs at least {self.least}; use longer clips"
        return (
            f"{count} items in the batch, it needs at least {self.least}; raise the batch size (and drop a last, short "
            'batch), or set per: "time", which compares the frames of one item'
        )

    def relation(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Value of one pair, from vectors ``[groups, N, D_T]`` and ``[groups, N, D_S]``, mean over groups."""
        raise NotImplementedError

    def vectors(self, x: Tensor) -> Tensor:
        """``[B, C, T, F]`` to ``[groups, N, D]``, see the table above."""
        if self.per == "item":
            return (x.flatten(1) if self.features == "flat" else x.mean((2, 3)))[None]
        rows = x.transpose(1, 2).flatten(2) if self.features == "flat" else x.mean(3).transpose(1, 2)  # [B, T, D]
        return rows.transpose(0, 1) if self.per == "frame" else rows


def unit(x: Tensor) -> Tensor:
    """Vectors ``[..., D]`` at unit length; those below `SILENCE` rms fade to zero, with a finite gradient."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(SILENCE * x.shape[-1] ** 0.5)
