"""Objectives that compare one tap of the teacher with one of the student, pair by pair, and then average the pairs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.objectives.base import Exchange, Objective
from kdse.objectives.shapes import require_equal
from kdse.precision import exact

SILENCE = 1e-5
"""Activations whose rms (or peak, where stated) lies below this count as silence where an objective divides by a norm:
they fade to zero instead of being blown up to unit length. Our choice; no paper says."""


class Layerwise(Objective):
    """Base of objectives with one value a pair of taps. Subclasses implement `layer`.

    Args:
        reduction: over pairs of taps, "mean" or "sum"; a subclass may give it more to say.
        weight: factor on the value.
        pairs: taps to compare; see `Objective`.
    """

    agree = "btf"  # axes of [B, C, T, F] on which teacher and student must agree

    def __init__(self, reduction: str = "mean", weight: float = 1.0, pairs: str | list[list[str]] = "all") -> None:
        super().__init__(weight, pairs)
        if reduction not in ("mean", "sum"):
            raise UserError(f'reduction={reduction!r}: use "mean" or "sum"')
        self.reduction = reduction

    def build_heads(
        self, teacher_shapes: Mapping[str, torch.Size], student_shapes: Mapping[str, torch.Size]
    ) -> nn.ModuleDict | None:
        """No heads; taps that cannot be compared are an error here, before any training."""
        for t, s in self.bound_pairs:
            require_equal(self.name, (t, s), teacher_shapes[t], student_shapes[s], self.agree)
        return None

    def loss(self, exchange: Exchange) -> Tensor:
        return self.compare(*self.activations(exchange))

    def activations(self, exchange: Exchange) -> tuple[list[Tensor], list[Tensor]]:
        """Teacher's and student's activations of the bound pairs, in order."""
        teacher = [exchange.teacher_taps[t] for t, _ in self.bound_pairs]
        return teacher, [exchange.student_taps[s] for _, s in self.bound_pairs]

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The bare equation on activations ``[B, C, T, F]``, one of each network a pair.

        Raises:
            ValueError: if axes differ that must agree.
        """
        self.check(teacher, student)
        with torch.autocast(teacher[0].device.type, enabled=False):
            return self.reduce([self.layer(exact(a), exact(b)) for a, b in zip(teacher, student, strict=True)])

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Value of one pair of activations ``[B, C, T, F]``, float32 or float64."""
        raise NotImplementedError

    def reduce(self, terms: list[Tensor]) -> Tensor:
        """Mean or sum over the pairs."""
        total = torch.stack(terms)
        return total.sum() if self.reduction == "sum" else total.mean()

    def check(self, teacher: list[Tensor], student: list[Tensor]) -> None:
        """Raises a ValueError unless there is one student activation a teacher activation and their axes agree."""
        if not teacher or len(teacher) != len(student):
            raise UserError(f"objectives.{self.name}: {len(teacher)} teacher and {len(student)} student activations")
        for index, (a, b) in enumerate(zip(teacher, student, strict=True)):
            require_equal(self.name, self.pair_names(index, len(teacher)), a.shape, b.shape, self.agree)

    def pair_names(self, index: int, count: int) -> tuple[str, str]:
        """Names of a pair for messages; its number where `compare` is called with bare tensors."""
        known = self.bound_pairs if len(self.bound_pairs) == count else []
        return known[index] if known else (f"number {index}", f"number {index}")


def project(heads: nn.ModuleDict, student: list[Tensor]) -> list[Tensor]:
    """Student activations through the head of their pair (key: the pair's number), outside autocast; as they are
    where a pair has no head."""
    with torch.autocast(student[0].device.type, enabled=False):
        return [heads[str(i)](exact(x)) if str(i) in heads else exact(x) for i, x in enumerate(student)]
