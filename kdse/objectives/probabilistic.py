"""Probabilistic knowledge transfer (PKT): the probability with which one item picks another as its neighbour.

Passalis & Tefas, "Learning deep representations with probabilistic knowledge transfer", ECCV 2018 (from memory).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdse.objectives.items import ItemRelations
from kdse.objectives.vectors import unit


class ProbabilisticTransfer(ItemRelations):
    """Kullback-Leibler divergence between the neighbour probabilities of teacher and student.

    ``K(i, j) = (cos(x_i, x_j) + 1) / 2``, ``p(j | i) = K(i, j) / sum_{k != i} K(i, k)``,
    ``L = sum_i sum_{j != i} p_T(j | i) log( p_T(j | i) / p_S(j | i) )`` (``reduction="sum"``, the paper's equation);
    "mean" averages over items too (our choice; the authors' code divides by the square of their number).
    Silence is a zero vector, of cosine 0 with everything; value and gradient are finite.

    Without itself an item has only one neighbour in a batch of two, of probability 1: at least three items, or two
    with `include_self`.

    Args:
        include_self: let an item be its own neighbour, as the authors' code does; their equation does not.
    """

    def __init__(self, include_self: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.include_self = include_self
        self.least = 2 if include_self else 3

    def relation(self, teacher: Tensor, student: Tensor) -> Tensor:
        p, q = self._log_neighbours(teacher), self._log_neighbours(student)
        total = (p.exp() * (p - q)).sum() / teacher.shape[0]
        return total if self.reduction == "sum" else total / teacher.shape[1]

    def _log_neighbours(self, x: Tensor) -> Tensor:
        """Vectors ``[groups, N, D]`` to ``log p(j | i)``, ``[groups, N, N]`` or ``[groups, N, N - 1]`` without self."""
        x = unit(x)
        # rounding may pass below -1; the floor gives opposite items (similarity 0) a logarithm
        similarity = (0.5 + 0.5 * (x @ x.transpose(1, 2))).clamp_min(0) + 1e-6
        if not self.include_self:
            count = x.shape[1]
            # without its first value the matrix, in rows of one more, ends each row with a value of the diagonal
            rows = similarity.flatten(1)[:, 1:].unflatten(1, (count - 1, count + 1))
            similarity = rows[:, :, :-1].reshape(-1, count, count - 1)
        return similarity.log() - similarity.sum(2, keepdim=True).log()
