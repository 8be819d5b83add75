"""`TaughtLoss`: any supervised loss, with the teacher's output where clean speech was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdse import losses
from kdse.models.base import Estimate
from kdse.objectives import Exchange, TaughtLoss
from tests.toys import make_student

LOSSES = {
    "CompressedSpectral": {}, "MannerLoss": {}, "MultiResolutionStft": {}, "PhaseSensitive": {}, "SiSdr": {},
    "WeightedSum": {"losses": {"a": losses.SiSdr(), "b": losses.CompressedSpectral()}},
}  # fmt: skip


def exchange(seed: int = 0, **changes: object) -> Exchange:
    torch.manual_seed(seed)
    noisy, taught = 0.1 * torch.randn(2, 8000), 0.1 * torch.randn(2, 8000)
    student = make_student()(noisy)
    return Exchange(**{"noisy": noisy, "student": student, "teacher": Estimate(taught), **changes})


def test_si_sdr_to_the_teacher_is_that_of_a_loop_in_float64():
    given = exchange()
    ratios = []
    for estimate, target in zip(given.student.waveform.detach().double(), given.teacher.waveform.double(), strict=True):
        s, x = target.numpy(), estimate.numpy()
        part = (x @ s) / (s @ s) * s
        ratios.append(10 * np.log10((part @ part) / ((x - part) @ (x - part))))
    value = TaughtLoss(loss=losses.SiSdr()).loss(given).detach()
    assert float(value) == pytest.approx(-np.mean(ratios), abs=0.01)  # (at 41 dB its floor of -80 dB counts)


@pytest.mark.parametrize("name", LOSSES)
def test_a_teacher_that_says_the_clean_speech_gives_every_loss_its_supervised_value_without_labels(name):
    criterion = getattr(losses, name)(**LOSSES[name])
    given = exchange()
    assert given.clean is None
    supervised = criterion(given.student, given.teacher.waveform, given.noisy)
    value = TaughtLoss(loss=criterion).loss(given)
    torch.testing.assert_close(value, supervised)
    other = exchange()
    other.teacher = Estimate(other.teacher.waveform.flip(1))
    assert not torch.isclose(TaughtLoss(loss=criterion).loss(other), value)


def test_the_teacher_gets_no_gradient_and_the_student_does():
    wave = torch.randn(2, 8000, requires_grad=True)
    given = exchange(teacher=Estimate(wave))
    given.student.waveform.retain_grad()
    TaughtLoss(loss=losses.CompressedSpectral()).loss(given).backward()
    assert wave.grad is None and given.student.waveform.grad.abs().max() > 0


def test_outputs_of_other_lengths_and_transforms_are_refused_by_the_objectives_name():
    objective = TaughtLoss(loss=losses.PhaseSensitive(n_fft=256, hop=64)).named("taught")
    with pytest.raises(ValueError, match=r"objectives\.taught\.loss: PhaseSensitive's STFT"):
        objective.loss(exchange())
    with pytest.raises(ValueError, match=r"objectives\.taught: the teacher's waveform is \[2, 7000\]"):
        objective.loss(exchange(teacher=Estimate(torch.zeros(2, 7000))))
