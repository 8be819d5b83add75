"""Objectives that compare one tap of the teacher with one of the student, pair by pair, and then average the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, require_one_of
from kdse.objectives.base import Exchange, Objective, Shapes
from kdse.objectives.shapes import require_equal
from kdse.precision import exact, full_precision


class Layerwise(Objective):
    """Base of objectives with one value a pair of taps. Subclasses implement `layer`.

    Args:
        reduction: over pairs of taps, "mean" (our choice) or "sum"; where an objective says more of it in its
            description, "sum" is the paper's equation.
    """

    agree = "btf"  # axes of [B, C, T, F] on which teacher and student must agree

    def __init__(self, reduction: str = "mean", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_one_of("reduction", reduction, "mean", "sum")
        self.reduction = reduction

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict | None:
        """No heads; taps that cannot be compared are an error here, before any training."""
        for pair in self.bound_pairs:
            self.check_pair(pair, teacher_shapes[pair[0]], student_shapes[pair[1]])
        return None

    def loss(self, exchange: Exchange) -> Tensor:
        return self.compare(*self.activations(exchange))

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The bare equation on activations ``[B, C, T, F]``, one of each network a pair; the teacher gets no gradient.

        Raises:
            ValueError: if axes differ that must agree.
        """
        self.check(teacher, student)
        with full_precision(student[0].device):
            return self.reduce(self.terms([x.detach() for x in teacher], student))

    def terms(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        """The values that are averaged, from all activations."""
        return [self.layer(exact(a), exact(b)) for a, b in zip(teacher, student, strict=True)]

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
            self.check_pair(self.pair_names(index, len(teacher)), a.shape, b.shape)

    def check_pair(self, pair: tuple[str, str], teacher: Sequence[int], student: Sequence[int]) -> None:
        """Raises a ValueError unless shapes ``[B, C, T, F]`` can be compared."""
        require_equal(self.name, pair, teacher, student, self.agree)

    def pair_names(self, index: int, count: int) -> tuple[str, str]:
        """Names of a pair for messages; its number where `compare` is called with bare tensors."""
        known = len(self.bound_pairs) == count
        return self.bound_pairs[index] if known else (f"layer {index}", f"layer {index}")


def project(heads: nn.ModuleDict, student: list[Tensor], prefix: str = "") -> list[Tensor]:
    """Student activations through the head of their pair (key: prefix and number), outside autocast; as they are
    where a pair has no head."""
    keys = [f"{prefix}{i}" for i in range(len(student))]
    with full_precision(student[0].device):
        return [heads[key](exact(x)) if key in heads else exact(x) for key, x in zip(keys, student, strict=True)]


def pointwise_heads(pairs: list[tuple[str, str]], teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
    """A 1x1 convolution with bias a pair, from the student's channels to the teacher's; keys as in `project`."""
    return nn.ModuleDict(
        {str(i): nn.Conv2d(student_shapes[s][1], teacher_shapes[t][1], 1) for i, (t, s) in enumerate(pairs)}
    )
