"""Hints agree with a loop over the equation and with torch's own mean squared error."""

from __future__ import annotations

import pytest
import torch

from kdse.objectives.hint import Hint
from tests.objectives.pairs import B, activations, bound


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_agrees_with_a_loop(reduction):
    teacher, student = activations(0, 0), activations(1, 1)
    objective = Hint(reduction=reduction)
    exchange = bound(objective, teacher, student)
    terms = []
    for i, (a, b) in enumerate(zip(teacher, student, strict=True)):
        head, total = exchange.heads[str(i)], 0.0
        weight, bias = head.weight.detach()[:, :, 0, 0], head.bias.detach()
        for n, t, f in ((n, t, f) for n in range(B) for t in range(a.shape[2]) for f in range(a.shape[3])):
            for c in range(a.shape[1]):
                predicted = bias[c] + sum(weight[c, k] * b[n, k, t, f] for k in range(b.shape[1]))
                total += float(a[n, c, t, f] - predicted) ** 2
        terms.append(0.5 * total / B if reduction == "sum" else total / a.numel())
    expected = sum(terms) if reduction == "sum" else sum(terms) / len(terms)
    assert objective.loss(exchange).item() == pytest.approx(expected, rel=1e-10)


def test_without_heads_it_is_torchs_mean_squared_error():
    teacher, student = activations(0, 0), activations(1, 0)
    expected = sum(torch.nn.functional.mse_loss(b, a) for a, b in zip(teacher, student, strict=True)) / 2
    assert Hint().compare(teacher, student).item() == pytest.approx(expected.item(), rel=1e-12)


def test_frames_and_bins_are_resampled_only_when_asked():
    teacher, student = activations(0, 0), [x.repeat_interleave(2, 2).repeat_interleave(3, 3) for x in activations(1, 1)]
    with pytest.raises(ValueError, match="frames and frequencies"):
        bound(Hint(), teacher, student)
    objective = Hint(resample=True)
    exchange = bound(objective, teacher, student)
    same = bound(Hint(), teacher, activations(1, 1))
    same.heads = exchange.heads
    plain = Hint()
    plain.bound_pairs = objective.bound_pairs
    # repeated frames average back to what they were
    assert objective.loss(exchange).item() == pytest.approx(plain.loss(same).item(), rel=1e-10)


def test_a_linear_student_can_be_regressed_to_nothing():
    """The head can undo any invertible mixing of the channels: the best regression costs zero."""
    teacher = activations(0, 0)[:1]
    mixing = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    student = [torch.einsum("bctf,cd->bdtf", teacher[0], mixing)]
    objective = Hint()
    exchange = bound(objective, teacher, student)
    with torch.no_grad():
        exchange.heads["0"].weight.copy_(mixing[:, :, None, None])
        exchange.heads["0"].bias.zero_()
    assert objective.loss(exchange).item() == pytest.approx(0, abs=1e-20)
