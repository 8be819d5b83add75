"""Attention transfer agrees with loops over the paper's equation and over the authors' form."""

from __future__ import annotations

import pytest
import torch

from kdse.objectives.attention_transfer import AttentionTransfer
from tests.objectives.pairs import B, T, activations


def loop_map(x: torch.Tensor, n: int, power: float) -> list[float]:
    entries = []
    for t in range(x.shape[2]):
        for f in range(x.shape[3]):
            entries.append(sum(abs(float(x[n, c, t, f])) ** power for c in range(x.shape[1])))
    length = sum(v * v for v in entries) ** 0.5
    return [v / length for v in entries]


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("form", ["norm", "squared"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_agrees_with_a_loop(power, form, reduction):
    teacher, student = activations(0, 0), activations(1, 1)
    terms = []
    for a, b in zip(teacher, student, strict=True):
        gaps = []
        for n in range(B):
            squares = [(p - q) ** 2 for p, q in zip(loop_map(a, n, power), loop_map(b, n, power), strict=True)]
            gaps.append(0.5 * sum(squares) ** 0.5 if form == "norm" else sum(squares) / len(squares))
        terms.append(sum(gaps) / B)
    expected = sum(terms) if reduction == "sum" else sum(terms) / len(terms)
    value = AttentionTransfer(power=power, form=form, reduction=reduction).compare(teacher, student)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_the_squared_form_agrees_with_torchs_normalize():
    teacher, student = activations(0, 0), activations(1, 1)
    maps = [[torch.nn.functional.normalize(x.square().mean(1).flatten(1)) for x in side] for side in (teacher, student)]
    expected = sum(torch.nn.functional.mse_loss(a, b) for a, b in zip(*maps, strict=True))
    value = AttentionTransfer(form="squared", reduction="sum").compare(teacher, student)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)


def test_maps_that_share_no_bin_are_the_largest_distance_apart():
    teacher, student = torch.zeros(2, 3, T, 4), torch.zeros(2, 5, T, 4)
    teacher[:, :, 0, 0], student[:, :, 1, 1] = 1.0, 0.02
    assert AttentionTransfer().compare([teacher], [student]).item() == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_the_level_cancels_in_float32_down_to_silence_and_below_it_the_map_fades(power):
    x = activations(0, 0)[0].float()
    objective = AttentionTransfer(power=power)
    assert objective.compare([x], [1e-4 * x]).item() == pytest.approx(0, abs=1e-6)
    assert objective.compare([x], [1e-9 * x]).item() == pytest.approx(0.5, rel=5e-3)  # against a map of zeros
    student = (1e-9 * x).requires_grad_()
    objective.compare([x], [student]).backward()
    assert student.grad.isfinite().all() and student.grad.abs().max() < 1e6


def test_maps_of_other_resolution_compare_when_asked():
    teacher, student = activations(0, 0)[:1], activations(1, 1)[:1]
    finer = [x.repeat_interleave(2, 2).repeat_interleave(3, 3) for x in student]
    with pytest.raises(ValueError, match="frames and frequencies"):
        AttentionTransfer().compare(teacher, finer)
    value = AttentionTransfer(resample=True).compare(teacher, finer).item()
    assert value == pytest.approx(AttentionTransfer().compare(teacher, student).item(), rel=1e-10)
