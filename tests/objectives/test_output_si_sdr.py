"""SI-SDR to the teacher agrees with plain float64 arithmetic and survives silence."""

from __future__ import annotations

import math

import pytest
import torch

from kdse.models.base import Estimate
from kdse.objectives.base import Exchange
from kdse.objectives.output import SiSdrDistillation


def exchange(teacher: torch.Tensor, student: torch.Tensor) -> Exchange:
    return Exchange(noisy=torch.zeros_like(student), teacher=Estimate(teacher), student=Estimate(student))


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(3, 500, dtype=torch.float64, generator=generator)
    return teacher, 0.5 * teacher + 0.2 * torch.randn(3, 500, dtype=torch.float64, generator=generator)


def test_it_agrees_with_a_loop():
    teacher, student = pair()
    total = 0.0
    for reference, estimate in zip(teacher.tolist(), student.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(reference, estimate, strict=True))
        scale = dot / sum(a * a for a in reference)
        target = [scale * a for a in reference]
        error = [b - a for a, b in zip(target, estimate, strict=True)]
        total -= 10 * math.log10(sum(a * a for a in target) / sum(e * e for e in error))
    assert SiSdrDistillation().loss(exchange(teacher, student)).item() == pytest.approx(total / 3, rel=1e-6)


def test_the_scale_of_either_signal_does_not_matter():
    teacher, student = pair()
    value = SiSdrDistillation().compare([teacher], [student])
    torch.testing.assert_close(SiSdrDistillation().compare([3 * teacher], [0.1 * student]), value, atol=1e-6, rtol=0)


def test_the_student_alone_gets_a_gradient_and_following_it_comes_nearer():
    teacher, student = (x.requires_grad_() for x in pair())
    before = SiSdrDistillation().loss(exchange(teacher, student))
    before.backward()
    assert teacher.grad is None
    with torch.no_grad():
        after = SiSdrDistillation().compare([teacher], [student - student.grad])
    assert after < before


@pytest.mark.parametrize(("teacher", "student", "value"), [(0.0, 0.1, 80.0), (0.0, 0.0, 0.0), (0.1, 0.0, 0.0)], ids=str)
def test_silence_costs_what_the_docstring_says_and_has_a_finite_gradient(teacher, student, value):
    noise = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    estimate = (student * noise).requires_grad_()
    loss = SiSdrDistillation().loss(exchange(teacher * noise, estimate))
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=0.01)
    assert estimate.grad.abs().max() < 1e-6


def test_it_is_float32_under_autocast():
    teacher, student = (x.float() for x in pair())
    exact = SiSdrDistillation().loss(exchange(teacher, student))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(SiSdrDistillation().loss(exchange(teacher, student)), exact)


def test_waveforms_of_other_length_are_refused():
    with pytest.raises(ValueError, match=r"si_sdr_distillation.*\[1, 100\].*\[1, 99\]"):
        SiSdrDistillation().loss(exchange(torch.ones(1, 100), torch.ones(1, 99)))
