"""Probabilistic transfer agrees with a loop over the equation and with scipy's relative entropy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy

from kdse.objectives.probabilistic import ProbabilisticTransfer
from tests.objectives.pairs import B, activations


def loop_probabilities(x: torch.Tensor, include_self: bool) -> list[list[float]]:
    rows = [item.flatten() for item in x]
    result = []
    for i, a in enumerate(rows):
        others = [b for j, b in enumerate(rows) if include_self or j != i]
        lengths = [float(a.square().sum() * b.square().sum()) ** 0.5 for b in others]
        kernel = [(float(a @ b) / n + 1) / 2 for b, n in zip(others, lengths, strict=True)]
        result.append([k / sum(kernel) for k in kernel])
    return result


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_agrees_with_a_loop_and_with_scipy(include_self, reduction):
    teacher, student = activations(0, 0), activations(1, 1)
    terms, library = [], []
    for a, b in zip(teacher, student, strict=True):
        p, q = loop_probabilities(a, include_self), loop_probabilities(b, include_self)
        terms.append(sum(u * math.log(u / v) for x, y in zip(p, q, strict=True) for u, v in zip(x, y, strict=True)))
        library.append(sum(entropy(x, y) for x, y in zip(p, q, strict=True)))
    scale = 1 if reduction == "sum" else 1 / (2 * B)
    value = ProbabilisticTransfer(include_self=include_self, reduction=reduction).compare(teacher, student).item()
    assert value == pytest.approx(scale * sum(terms), rel=1e-5)  # the floor under each similarity is 1e-6
    assert value == pytest.approx(scale * sum(library), rel=1e-5)


def test_opposite_items_have_a_finite_divergence_and_slope():
    teacher = activations(0, 0)[0].float()
    student = activations(1, 1)[0].float()
    student[:2] = 0
    student[0, 0, 0, 0], student[1, 0, 0, 0] = 1, -1  # cosine -1 without rounding
    student.requires_grad_()
    value = ProbabilisticTransfer().compare([teacher], [student])
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all() and student.grad[2:].abs().max() > 0


@pytest.mark.parametrize(("include_self", "least"), [(False, 3), (True, 2)])
def test_it_needs_a_choice_of_neighbours(include_self, least):
    objective = ProbabilisticTransfer(include_self=include_self)
    few = activations(0, 0, batch=least - 1), activations(1, 1, batch=least - 1)
    with pytest.raises(ValueError, match=f"needs at least {least}"):
        objective.compare(*few)
    assert objective.compare(activations(0, 0, batch=least), activations(1, 1, batch=least)).item() > 0
