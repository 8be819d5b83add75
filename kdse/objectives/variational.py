"""Variational information distillation (VID): a bound on how much the student's features tell about the teacher's.

Ahn et al., "Variational information distillation for knowledge transfer", CVPR 2019, equations 4 to 6 (from memory).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least
from kdse.objectives.base import Exchange, Shapes
from kdse.objectives.layerwise import Layerwise
from kdse.objectives.shapes import require_equal
from kdse.precision import exact, full_precision


class VariationalInformation(Layerwise):
    """Negative log-likelihood of the teacher's features under a Gaussian predicted from the student's.

    Per item, features ``t [C, T, F]``, predicted mean ``mu(s)``, one variance a channel:
    ``L = sum_ctf [ log sigma_c + (t - mu(s))^2 / (2 sigma_c^2) ]`` (the constant ``1/2 log 2 pi`` is left out),
    ``sigma_c^2 = log(1 + exp(alpha_c)) + minimum_variance`` with a trained ``alpha``. ``reduction="sum"`` sums over
    pairs too and averages over items, as the paper; "mean" averages over all values, items and pairs (our choice, and
    that of public implementations that name the authors' code as their source).

    Channels that the student cannot predict get a large variance and so a small say. The value may be negative. ``mu``
    is a stack of 1x1 convolutions on the student; both parts are heads, trained with the student and dropped on
    export. A dead teacher channel drives its variance to the minimum, where the gradient is at most
    ``1 / minimum_variance`` times the error. Silence: finite value and gradient.

    Args:
        layers: 1x1 convolutions in ``mu``, with ReLU between; 1 is our choice (those implementations use 3 without
            biases).
        initial_variance: of every channel; 5 is what those implementations start from.
        minimum_variance: added to the softplus; 1e-5 there.
    """

    agree = "bctf"

    def __init__(
        self, layers: int = 1, initial_variance: float = 5.0, minimum_variance: float = 1e-5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require_at_least(1, layers=layers)
        if not 0 < minimum_variance < initial_variance:
            raise UserError(
                f"minimum_variance={minimum_variance} must lie between 0 and initial_variance={initial_variance}"
            )
        self.layers, self.initial_variance, self.minimum_variance = layers, initial_variance, minimum_variance

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        heads = nn.ModuleDict()
        for index, (t, s) in enumerate(self.bound_pairs):
            require_equal(self.name, (t, s), teacher_shapes[t], student_shapes[s], "tf")
            channels = student_shapes[s][1], teacher_shapes[t][1]
            heads[str(index)] = Gaussian(*channels, self.layers, self.initial_variance, self.minimum_variance)
        return heads

    def loss(self, exchange: Exchange) -> Tensor:
        teacher, student = self.activations(exchange)
        with full_precision(student[0].device):
            predicted = [exchange.heads[str(i)](exact(x)) for i, x in enumerate(student)]
        return self.compare(teacher, [mean for mean, _ in predicted], [variance for _, variance in predicted])

    def compare(self, teacher: list[Tensor], student: list[Tensor], variance: list[Tensor] | None = None) -> Tensor:
        """The bare equation on the teacher's features and predicted means, both ``[B, C, T, F]``.

        ``variance`` holds ``[C]`` a pair; None means 1 everywhere.
        """
        self.check(teacher, student)
        spread = variance or [a.new_ones(a.shape[1]) for a in teacher]
        with full_precision(teacher[0].device):
            parts = zip(teacher, student, spread, strict=True)
            return self.reduce([self._likelihood(exact(a), exact(b), exact(v)) for a, b, v in parts])

    def _likelihood(self, teacher: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        spread = variance[:, None, None]
        cost = 0.5 * (spread.log() + (teacher - mean).square() / spread)
        return cost.mean() if self.reduction == "mean" else cost.sum() / teacher.shape[0]


class Gaussian(nn.Module):
    """Mean ``[B, C_T, T, F]`` and variance ``[C_T]`` of the teacher's features, from the student's ``[B, C_S, T, F]``.

    Args:
        student, teacher: channels in and out.
        layers: 1x1 convolutions of the mean.
        initial, minimum: variance at the start, and its lower bound.
    """

    def __init__(self, student: int, teacher: int, layers: int, initial: float, minimum: float) -> None:
        super().__init__()
        steps: list[nn.Module] = [nn.Conv2d(student, teacher, kernel_size=1)]
        for _ in range(layers - 1):
            steps += [nn.ReLU(), nn.Conv2d(teacher, teacher, kernel_size=1)]
        self.mean = nn.Sequential(*steps)
        above = initial - minimum
        # softplus backwards; log1p(-exp) instead of log(exp - 1), which overflows
        self.alpha = nn.Parameter(torch.full((teacher,), above + math.log(-math.expm1(-above))))
        self.minimum = minimum

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), F.softplus(self.alpha) + self.minimum
