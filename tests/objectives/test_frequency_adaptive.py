"""Dynamic frequency-adaptive KD equals a float64 loop written from its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdse.models.base import Estimate
from kdse.objectives.base import Exchange
from kdse.objectives.frequency_adaptive import FrequencyAdaptive


def spectra(items=2, bins=17, frames=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(items, bins, frames, dtype=torch.complex128, generator=generator)


def crossover(teacher):
    """The bin where the running maximum of |T| rises most, relative to itself."""
    running = [max(abs(teacher[g]) for g in range(f + 1)) for f in range(len(teacher))]
    rises = [(running[f + 1] - running[f]) / (running[f] + 1e-8) for f in range(len(teacher) - 1)]
    return int(np.argmax(rises))


def reference(teacher, student, beta):
    low, high = [], []
    for t, s in zip(teacher.numpy(), student.numpy(), strict=True):
        for frame in range(t.shape[1]):
            m = crossover(t[:, frame])
            for part, kept in ((slice(0, m + 1), low), (slice(m, None), high)):
                a, b = t[part, frame], s[part, frame]
                norms = [np.sqrt(np.sum(np.abs(x) ** 2) + 1e-8) for x in (a, b)]
                cosine = 1 - np.real(np.vdot(a, b)) / (norms[0] * norms[1] + 1e-8)
                squared = np.mean((np.abs(a) - np.abs(b)) ** 2)
                kept.append(cosine if kept is low else beta * cosine + (1 - beta) * squared)
    return np.mean(low) + np.mean(high)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_it_equals_a_loop_over_frames(beta):
    teacher, student = spectra(seed=1), spectra(seed=2)
    value = FrequencyAdaptive(beta=beta).compare([teacher], [student])
    assert value.item() == pytest.approx(reference(teacher, student, beta), rel=1e-5)


def test_a_perfect_student_has_no_loss_and_only_a_rescaled_one_pays_in_the_high_band():
    teacher = spectra()
    assert FrequencyAdaptive().compare([teacher], [teacher.clone()]).item() == pytest.approx(0, abs=1e-6)
    assert FrequencyAdaptive(beta=1.0).compare([teacher], [3 * teacher]).item() == pytest.approx(0, abs=1e-6)
    assert FrequencyAdaptive(beta=0.5).compare([teacher], [3 * teacher]).item() > 0.1


def test_the_crossover_can_be_kept_off_the_lowest_bins():
    teacher = spectra()
    low, high = FrequencyAdaptive(first_bin=6).bands(teacher)
    assert int((low & high).float().argmax(1).min()) >= 6 and torch.all((low & high).sum(1) == 1)


def test_bands_share_the_crossover_bin_and_cover_every_bin():
    teacher = spectra()
    low, high = FrequencyAdaptive().bands(teacher)
    assert torch.all(low | high) and torch.all((low & high).sum(1) == 1)
    assert int((low & high)[0, :, 0].nonzero()) == crossover(teacher[0, :, 0].numpy())


def test_silence_is_finite_with_finite_gradients():
    wave = torch.zeros(2, 2048, requires_grad=True)
    exchange = Exchange(noisy=torch.zeros(2, 2048), teacher=Estimate(torch.zeros(2, 2048)), student=Estimate(wave))
    value = FrequencyAdaptive().loss(exchange)
    value.backward()
    assert torch.isfinite(value) and torch.all(torch.isfinite(wave.grad))


def test_gradient_descends_towards_the_teacher():
    teacher = torch.randn(1, 2048)
    wave = torch.randn(1, 2048, requires_grad=True)
    objective = FrequencyAdaptive()
    optimizer = torch.optim.Adam([wave], lr=0.05)
    values = []
    for _ in range(60):
        value = objective.loss(Exchange(noisy=teacher, teacher=Estimate(teacher), student=Estimate(wave)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.3 * values[0]
