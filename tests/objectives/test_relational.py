"""RKD agrees with loops over pairs and triplets, and with scipy's distances."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from kdse.objectives.relational import RelationalAngle, RelationalDistance, relative_distances
from tests.objectives.pairs import B, activations


def rows(x: torch.Tensor, features: str) -> torch.Tensor:
    return x.flatten(1) if features == "flat" else torch.stack([item.mean((1, 2)) for item in x])


def huber(gap: float) -> float:
    return 0.5 * gap**2 if abs(gap) <= 1 else abs(gap) - 0.5


def loop_distance(teacher: torch.Tensor, student: torch.Tensor) -> float:
    sides = []
    for x in (teacher, student):
        lengths = {(i, j): float((x[i] - x[j]).square().sum()) ** 0.5 for i, j in permutations(range(len(x)), 2)}
        mean = sum(lengths.values()) / len(lengths)
        sides.append({pair: length / mean for pair, length in lengths.items()})
    return sum(huber(sides[0][pair] - sides[1][pair]) for pair in sides[0])


def loop_angle(teacher: torch.Tensor, student: torch.Tensor) -> float:
    def cosine(x: torch.Tensor, i: int, j: int, k: int) -> float:
        a, b = x[i] - x[j], x[k] - x[j]
        return float(a @ b) / float(a.square().sum() * b.square().sum()) ** 0.5

    triplets = permutations(range(len(teacher)), 3)
    return sum(huber(cosine(teacher, *t) - cosine(student, *t)) for t in triplets)


@pytest.mark.parametrize("features", ["flat", "pooled"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    ("kind", "loop", "tuples"),
    [(RelationalDistance, loop_distance, B * (B - 1)), (RelationalAngle, loop_angle, B * (B - 1) * (B - 2))],
)
def test_it_agrees_with_a_loop(kind, loop, tuples, features, reduction):
    teacher, student = activations(0, 0), activations(1, 1)
    student[0][1] *= 30  # far outside: the Huber loss bends
    terms = [loop(rows(a, features), rows(b, features)) for a, b in zip(teacher, student, strict=True)]
    expected = sum(terms) if reduction == "sum" else sum(terms) / (2 * tuples)
    value = kind(features=features, reduction=reduction).compare(teacher, student)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_distances_agree_with_scipy_in_groups():
    x = torch.stack([activations(seed, 0)[0].flatten(1) for seed in range(3)])
    expected = [squareform(pdist(group.numpy()) / pdist(group.numpy()).mean()) for group in x]
    torch.testing.assert_close(relative_distances(x), torch.stack([torch.from_numpy(e) for e in expected]))


@pytest.mark.parametrize("kind", [RelationalDistance, RelationalAngle])
def test_rotating_shifting_and_scaling_a_network_costs_nothing(kind):
    x = activations(0, 0)[0]
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    moved = 0.3 * torch.einsum("bctf,cd->bdtf", x, rotation) + 2
    assert kind().compare([x], [moved]).item() == pytest.approx(0, abs=1e-18)


def test_close_items_keep_their_distance_and_angle_in_float32():
    """Two items a hundredth of the others' distance apart, far from the origin, against float64."""
    x, y = (100 + activations(seed, side)[0] for seed, side in ((0, 0), (1, 1)))
    y[1] = y[0] + 0.01 * (y[1] - y[0])
    for kind in (RelationalDistance, RelationalAngle):
        exact = y.clone().requires_grad_()
        single = y.float().requires_grad_()
        value = kind().compare([x], [exact])
        rough = kind().compare([x.float()], [single])
        (slope,) = torch.autograd.grad(value, exact)
        (rough_slope,) = torch.autograd.grad(rough, single)
        assert rough.item() == pytest.approx(value.item(), rel=1e-3)
        assert (rough_slope - slope).norm() < 2e-3 * slope.norm()


def test_items_that_are_identical_in_one_network_have_cosine_zero_and_only_distinct_triplets_count():
    teacher, student = activations(0, 0)[:1], activations(1, 1)[:1]
    student[0][1] = student[0][0]
    total = 0.0
    for i, j, k in permutations(range(B), 3):
        cosines = []
        for x in (teacher[0].flatten(1), student[0].flatten(1)):
            a, b = x[i] - x[j], x[k] - x[j]
            lengths = float(a.square().sum() * b.square().sum()) ** 0.5
            cosines.append(float(a @ b) / lengths if lengths else 0.0)
        total += huber(cosines[0] - cosines[1])
    assert RelationalAngle(reduction="sum").compare(teacher, student).item() == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("kind", [RelationalDistance, RelationalAngle])
def test_two_items_are_refused(kind):
    teacher, student = activations(0, 0, batch=2), activations(1, 1, batch=2)
    with pytest.raises(ValueError, match="2 items in the batch, it needs at least 3"):
        kind().compare(teacher, student)
