"""Frame-weighted Jeffreys divergence: agrees with a loop from the equations, and is a divergence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdse.objectives import base
from kdse.objectives.jeffreys import FrameWeightedJeffreys
from tests.objectives.levels import (
    STUDENT_CHANNELS,
    TEACHER_CHANNELS,
    activations,
    bind,
    check_gradients,
    check_silence,
    exchange,
)


def loop_probabilities(x: Tensor, t: int) -> list[list[float]]:
    rows = [x[i, :, t].flatten().tolist() for i in range(x.shape[0])]
    norms = [math.sqrt(sum(v * v for v in row)) + 1e-6 for row in rows]
    result = []
    for row, norm in zip(rows, norms, strict=True):
        similar = [
            (sum(u * v for u, v in zip(row, other, strict=True)) / (norm * other_norm) + 1) / 2
            for other, other_norm in zip(rows, norms, strict=True)
        ]
        result.append([s / sum(similar) for s in similar])
    return result


def loop_level(teacher: Tensor, student: Tensor) -> float:
    """Sum over frames."""
    batch, total = teacher.shape[0], 0.0
    for t in range(teacher.shape[2]):
        p, q = loop_probabilities(teacher, t), loop_probabilities(student, t)
        for i in range(batch):
            weight = 1 / (1 + math.exp(-teacher[i, :, t].mean().item()))
            for j in range(batch):
                gap = (p[i][j] - q[i][j]) * (math.log(p[i][j]) - math.log(q[i][j]))
                total += weight * gap / batch**2
    return total


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_agrees_with_a_loop(reduction):
    teacher, student = activations(TEACHER_CHANNELS, 0), activations(STUDENT_CHANNELS, 1)
    total = sum(loop_level(teacher[name], student[name]) for name in teacher)
    expected = total if reduction == "sum" else total / (6 * len(teacher))
    objective = FrameWeightedJeffreys(reduction=reduction)
    assert objective.compare([*teacher.values()], [*student.values()]).item() == pytest.approx(expected, rel=1e-9)


def test_equal_levels_cost_nothing_and_others_cost_something():
    teacher = [*activations(TEACHER_CHANNELS, 0).values()]
    objective = FrameWeightedJeffreys()
    assert objective.compare(teacher, [x.clone() for x in teacher]).item() == 0.0
    others = [*activations(TEACHER_CHANNELS, 1).values()]
    assert all(objective.compare([a], [b]).item() > 0 for a, b in zip(teacher, others, strict=True))


def test_the_level_of_the_student_does_not_matter():
    teacher, student = ([*activations(TEACHER_CHANNELS, seed).values()] for seed in (0, 1))
    objective = FrameWeightedJeffreys()
    louder = objective.compare(teacher, [7 * x for x in student]).item()
    assert louder == pytest.approx(objective.compare(teacher, student).item(), rel=1e-4)


def test_frames_count_by_the_teachers_mean():
    """A teacher of means 2 or -2 and equal cosines: the values stand as sigmoid(2) to sigmoid(-2), which is e^2."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(3, 4, 2, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    teacher = teacher - teacher.mean(dim=(1, 3), keepdim=True) + 2
    up, down = (FrameWeightedJeffreys().compare([sign * teacher], [student]).item() for sign in (1, -1))
    assert up / down == pytest.approx(math.exp(2), rel=1e-9)


def test_opposite_items_are_finite():
    x = torch.full((1, 1, 4, 1), 1e3)  # so large that the cosine is exactly -1
    teacher = torch.cat([x, -x])
    student = torch.cat([x, x]).requires_grad_()
    for a, b in ((teacher, student), (student.detach(), teacher.clone().requires_grad_())):
        value = FrameWeightedJeffreys().compare([a], [b])
        value.backward()
        assert torch.isfinite(value) and value > 0 and torch.isfinite(b.grad).all()


def test_gradients_agree_with_finite_differences():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(3, 2, 2, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    objective = FrameWeightedJeffreys()
    assert torch.autograd.gradcheck(lambda x: objective.compare([teacher], [x]), student.requires_grad_())


def test_gradients_reach_student_and_heads_alone():
    check_gradients(FrameWeightedJeffreys(mid_channels=4))


@pytest.mark.parametrize("silent_teacher", [False, True])
def test_silence_is_finite(silent_teacher):
    check_silence(FrameWeightedJeffreys(mid_channels=4), silent_teacher)


def test_silent_features_are_finite_without_heads_too():
    student = torch.zeros(3, 2, 4, 5, requires_grad=True)
    value = FrameWeightedJeffreys().compare([torch.randn(3, 6, 4, 5)], [student])
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("gather", [True, False])
def test_the_global_batch_is_compared_if_asked(gather, monkeypatch):
    monkeypatch.setattr(base, "gather_batch", lambda x: torch.cat([x, 1 - x]))
    objective = FrameWeightedJeffreys(gather=gather, mid_channels=4)
    heads = bind(objective)
    teacher, student = activations(TEACHER_CHANNELS, 0), activations(STUDENT_CHANNELS, 1)
    features = objective.fuse(exchange(teacher, student, heads), [*teacher.values()])
    sides = [[torch.cat([x, 1 - x]) if gather else x for x in side] for side in (teacher.values(), features)]
    expected = objective.compare(*sides).item()
    assert objective.loss(exchange(teacher, student, heads)).item() == pytest.approx(expected, rel=1e-12)


def test_a_batch_of_one_warns_and_costs_nothing():
    with pytest.warns(UserWarning, match="batch of one"):
        value = FrameWeightedJeffreys().compare([torch.randn(1, 2, 3, 4)], [torch.randn(1, 2, 3, 4)])
    assert value.item() == 0.0


def test_frames_that_differ_are_named():
    objective = FrameWeightedJeffreys()
    objective.bound_pairs = [("deep", "tiny")]
    with pytest.raises(ValueError, match="'deep'.*'tiny'.*frames"):
        objective.compare([torch.zeros(2, 3, 4, 4)], [torch.zeros(2, 2, 5, 4)])
