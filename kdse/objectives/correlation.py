"""Correlation congruence (CC): the student's batch has the teacher's correlation matrix under a kernel.

Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019 (from memory).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdse.errors import require_at_least, require_one_of, require_positive
from kdse.objectives.items import ItemRelations
from kdse.objectives.vectors import unit


class CorrelationCongruence(ItemRelations):
    """Squared difference of kernel matrices over the items of a batch (at least two).

    ``L = 1 / N^2 || K_T - K_S ||_F^2`` with ``K[i, j] = k(x_i, x_j)`` of feature vectors at unit length:

    - ``kernel="rbf"``: ``exp(-gamma || x - y ||^2)`` by its Taylor series of order P. At unit length it is
      ``exp(-2 gamma) exp(2 gamma x.y)``, so ``k = sum_{p=0}^P exp(-2 gamma) (2 gamma)^p / p! (x.y)^p``.
    - ``kernel="bilinear"``: ``k = x.y``. (Raw, unnormalised vectors: `SimilarityPreserving` with ``over: []``.)

    The paper embeds both networks' features by a fully connected layer of one size first; here vectors of any two
    lengths compare directly (our choice: no heads). Silence is a zero vector: ``x.y = 0`` with a finite gradient.

    Args:
        kernel: "rbf" or "bilinear".
        gamma: of the RBF. 0.4 and order 2 are as we remember the paper's experiments: a starting point.
        order: P, the last power of the series.
    """

    def __init__(self, kernel: str = "rbf", gamma: float = 0.4, order: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_one_of("kernel", kernel, "rbf", "bilinear")
        require_positive(gamma=gamma)
        require_at_least(1, order=order)
        self.kernel, self.gamma, self.order = kernel, gamma, order

    def relation(self, teacher: Tensor, student: Tensor) -> Tensor:
        return (self._correlation(teacher) - self._correlation(student)).square().mean()

    def _correlation(self, x: Tensor) -> Tensor:
        """Kernel matrices ``[groups, N, N]`` of ``[groups, N, D]``."""
        x = unit(x)
        cosine = x @ x.transpose(1, 2)
        if self.kernel == "bilinear":
            return cosine
        series = torch.ones_like(cosine)
        for p in range(self.order, 0, -1):  # Horner's rule: 1 + z/1 (1 + z/2 (1 + ...)), z = 2 gamma x.y
            series = 1 + (2 * self.gamma / p) * cosine * series
        return math.exp(-2 * self.gamma) * series
