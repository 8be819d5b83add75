"""Correlation congruence agrees with a loop over the Taylor series, which tends to the Gaussian kernel."""

from __future__ import annotations

import math

import pytest
import torch

from kdse.objectives.correlation import CorrelationCongruence
from tests.objectives.pairs import B, activations

GAMMA = 0.4


def loop_kernel(x: torch.Tensor, kernel: str, order: int) -> list[float]:
    rows = [item.flatten() / float(item.square().sum()) ** 0.5 for item in x]
    entries = []
    for a in rows:
        for b in rows:
            dot = float(a @ b)
            if kernel == "rbf":
                dot = sum(
                    math.exp(-2 * GAMMA) * (2 * GAMMA) ** p / math.factorial(p) * dot**p for p in range(order + 1)
                )
            entries.append(dot)
    return entries


@pytest.mark.parametrize(("kernel", "order"), [("rbf", 1), ("rbf", 2), ("rbf", 5), ("bilinear", 2)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_agrees_with_a_loop(kernel, order, reduction):
    teacher, student = activations(0, 0), activations(1, 1)
    terms = []
    for a, b in zip(teacher, student, strict=True):
        pairs = zip(loop_kernel(a, kernel, order), loop_kernel(b, kernel, order), strict=True)
        terms.append(sum((p - q) ** 2 for p, q in pairs) / B**2)
    expected = sum(terms) if reduction == "sum" else sum(terms) / 2
    value = CorrelationCongruence(kernel=kernel, gamma=GAMMA, order=order, reduction=reduction)
    assert value.compare(teacher, student).item() == pytest.approx(expected, rel=1e-10)


def test_the_series_tends_to_the_gaussian_of_the_distance():
    teacher, student = activations(0, 0)[:1], activations(1, 1)[:1]
    kernels = []
    for x in (teacher[0], student[0]):
        rows = torch.nn.functional.normalize(x.flatten(1))
        kernels.append(torch.exp(-0.8 * torch.cdist(rows, rows).square()))
    expected = (kernels[0] - kernels[1]).square().mean().item()
    gaps = [abs(CorrelationCongruence(gamma=0.8, order=p).compare(teacher, student).item() - expected) for p in (1, 25)]
    assert gaps[1] < 1e-12 < gaps[0]


def test_two_items_are_enough():
    teacher, student = activations(0, 0, batch=2), activations(1, 1, batch=2)
    assert CorrelationCongruence().compare(teacher, student).item() > 0
