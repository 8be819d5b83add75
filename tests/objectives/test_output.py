"""Output distillation agrees with plain float64 arithmetic on each view of the output."""

from __future__ import annotations

import pytest
import torch

from kdse.models.base import Estimate
from kdse.models.stft import Stft
from kdse.objectives import Exchange, OutputDistillation


def exchange() -> Exchange:
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(2, 2048, generator=generator) for _ in range(2))
    masks = [torch.rand(2, 1, 9, 80, generator=generator) for _ in range(2)]
    return Exchange(
        noisy=torch.zeros(2, 2048),
        teacher=Estimate(teacher, mask=masks[0]),
        student=Estimate(student, mask=masks[1]),
    )


def view(estimate: Estimate, on: str) -> list[complex]:
    if on == "waveform":
        return estimate.waveform.double().flatten().tolist()
    if on == "mask":
        return estimate.mask.double().flatten().tolist()
    spectrum = Stft()(estimate.waveform).to(torch.complex128).flatten().tolist()
    return [abs(v) ** 0.3 for v in spectrum] if on == "magnitude" else spectrum


@pytest.mark.parametrize("on", ["waveform", "spectrum", "magnitude", "mask"])
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_it_agrees_with_a_loop(on, distance):
    batch = exchange()
    total, count = 0.0, 0
    for a, b in zip(view(batch.teacher, on), view(batch.student, on), strict=True):
        parts = [(a - b).real, (a - b).imag] if on == "spectrum" else [a - b]
        total += sum(abs(p) if distance == "l1" else p**2 for p in parts)
        count += len(parts)
    value = OutputDistillation(on=on, distance=distance).loss(batch)
    assert value.item() == pytest.approx(total / count, rel=1e-5)


def test_the_student_alone_gets_a_gradient():
    batch = exchange()
    student = batch.student.waveform.requires_grad_()
    OutputDistillation().loss(batch).backward()
    assert student.grad is not None and batch.teacher.waveform.grad is None


def test_a_model_without_a_mask_is_told_what_to_use():
    batch = exchange()
    batch.student = Estimate(batch.student.waveform)
    with pytest.raises(ValueError, match="waveform"):
        OutputDistillation(on="mask").loss(batch)


def test_masks_of_other_layouts_are_refused():
    batch = exchange()
    batch.student = Estimate(batch.student.waveform, mask=torch.zeros(2, 1, 9, 40))
    with pytest.raises(ValueError, match="mask"):
        OutputDistillation(on="mask").loss(batch)


@pytest.mark.parametrize("bad", [{"on": "phase"}, {"distance": "l3"}, {"compression": 0.0}])
def test_an_impossible_setting_is_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        OutputDistillation(**bad)
