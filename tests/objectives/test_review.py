"""Knowledge review: the hierarchical context loss agrees with a loop, and its properties hold through the heads."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from kdse.objectives.review import KnowledgeReview
from tests.objectives.levels import check_gradients, check_silence

LEVELS = [(2, 3, 9, 6), (2, 2, 7, 3), (2, 4, 4, 5)]  # plain; few frequencies; as many frames as the largest pool


def pair_of_levels() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    both = [[torch.randn(s, dtype=torch.float64, generator=generator) for s in LEVELS] for _ in range(2)]
    return both[0], both[1]


def loop_pool(x: Tensor, rows: int, columns: int) -> Tensor:
    """Averages cells that reach from floor(i n / r) to ceil((i + 1) n / r)."""
    y = torch.zeros(*x.shape[:2], rows, columns, dtype=x.dtype)
    t, f = x.shape[2:]
    for i, j in product(range(rows), range(columns)):
        frames = slice(i * t // rows, math.ceil((i + 1) * t / rows))
        bins = slice(j * f // columns, math.ceil((j + 1) * f / columns))
        y[:, :, i, j] = x[:, :, frames, bins].mean(dim=(2, 3))
    return y


def loop_context(teacher: Tensor, student: Tensor) -> float:
    frames, frequencies = teacher.shape[2:]
    value = ((teacher - student) ** 2).mean().item()
    weights = [1.0]
    for size in (4, 2, 1):
        if size >= frames:
            continue
        columns = min(size, frequencies)
        weights.append(weights[-1] / 2)
        gap = loop_pool(teacher, size, columns) - loop_pool(student, size, columns)
        value += weights[-1] * (gap**2).mean().item()
    return value / sum(weights)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_agrees_with_a_loop(reduction):
    teacher, student = pair_of_levels()
    levels = [loop_context(a, b) for a, b in zip(teacher, student, strict=True)]
    expected = sum(levels) if reduction == "sum" else sum(levels) / len(levels)
    assert KnowledgeReview(reduction=reduction).compare(teacher, student).item() == pytest.approx(expected, rel=1e-10)


def test_a_constant_offset_costs_its_square_at_every_scale():
    """Each scale's mean squared error is then the same, so the weights cancel."""
    teacher, _ = pair_of_levels()
    assert KnowledgeReview().compare(teacher, [x + 0.3 for x in teacher]).item() == pytest.approx(0.09, rel=1e-9)


def test_equal_levels_cost_nothing():
    teacher, _ = pair_of_levels()
    assert KnowledgeReview().compare(teacher, [x.clone() for x in teacher]).item() == 0.0


def test_without_pools_it_is_the_mean_squared_error():
    teacher, student = pair_of_levels()
    expected = sum(torch.nn.functional.mse_loss(b, a).item() for a, b in zip(teacher, student, strict=True)) / 3
    assert KnowledgeReview(pools=[]).compare(teacher, student).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_gradients_reach_student_and_heads_alone(norm):
    check_gradients(KnowledgeReview(norm=norm))


@pytest.mark.parametrize("silent_teacher", [False, True])
def test_silence_is_finite(silent_teacher):
    check_silence(KnowledgeReview(), silent_teacher)


def test_levels_that_differ_are_named():
    objective = KnowledgeReview()
    objective.bound_pairs = [("deep", "tiny")]
    with pytest.raises(ValueError, match="'deep'.*'tiny'.*channels"):
        objective.compare([torch.zeros(1, 3, 4, 4)], [torch.zeros(1, 2, 4, 4)])
    with pytest.raises(ValueError, match="pools"):
        KnowledgeReview(pools=[4, 0])
