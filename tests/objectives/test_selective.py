"""Selective patches: the published forms equal float64 loops, and any output objective can be wrapped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdse.models.base import Estimate
from kdse.objectives.base import Exchange
from kdse.objectives.frequency_adaptive import FrequencyAdaptive
from kdse.objectives.output import OutputDistillation
from kdse.objectives.selective import SelectivePatches
from kdse.objectives.similarity import SimilarityPreserving

N = 3000


def waves(items=2):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(items, N, dtype=torch.float64, generator=generator) for _ in range(4)]


def exchange(noisy, clean, teacher, student, **more):
    return Exchange(noisy=noisy, clean=clean, teacher=Estimate(teacher), student=Estimate(student), **more)


def chosen(gap, share):
    """Indices of the floor(share x n) largest gaps, ties included."""
    count = max(1, math.floor(share * gap.size))
    return gap >= np.sort(gap.ravel())[::-1][count - 1]


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_squared_form_equals_a_loop_over_patches(share):
    noisy, clean, teacher, student = waves()
    size = 20
    inner = OutputDistillation(on="magnitude", distance="l2", compression=1.0, n_fft=512, hop=128, window="hann")
    objective = SelectivePatches(inner, share=share, patch_bins=size)
    value = objective.loss(exchange(noisy, clean, teacher, student))
    views = [(objective.stft(x).abs().square() + 1e-12).sqrt().numpy() for x in (clean, teacher, student)]
    total = 0.0
    for y, t, s in zip(*views, strict=True):
        patches = range(0, y.shape[0], size)
        gap = np.array([[np.sum((s[p : p + size, f] - y[p : p + size, f]) ** 2) / size
                         - np.sum((t[p : p + size, f] - y[p : p + size, f]) ** 2) / size
                         for f in range(y.shape[1])] for p in patches])  # fmt: skip
        keep = chosen(gap, share)
        for row, p in enumerate(patches):
            for f in range(y.shape[1]):
                if keep[row, f]:
                    total += np.sum((s[p : p + size, f] - t[p : p + size, f]) ** 2) / size
    expected = total / (2 * len(patches) * y.shape[1] * share)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_the_banded_form_equals_a_loop_over_the_patches_of_each_band():
    noisy, clean, teacher, student = waves(items=1)
    beta, share = 0.5, 0.6
    inner = FrequencyAdaptive(beta=beta)
    objective = SelectivePatches(inner, share=share, patch_bins=10, high_patch_bins=40)
    value = objective.loss(exchange(noisy, clean, teacher, student))
    y, t, s = (objective.stft(x)[0].numpy() for x in (clean, teacher, student))
    bands = inner.bands(objective.stft(teacher))
    total = 0.0
    for band, size, high in ((bands[0], 10, False), (bands[1], 40, True)):
        mask = band[0].numpy()

        def error(a, b, p, f, mask=mask, size=size, high=high):
            inside = mask[p : p + size, f]
            a, b = a[p : p + size, f] * inside, b[p : p + size, f] * inside
            norms = [np.sqrt(np.sum(np.abs(x) ** 2) + 1e-8) for x in (a, b)]
            cosine = 1 - np.real(np.vdot(a, b)) / (norms[0] * norms[1] + 1e-8)
            squared = np.sum((np.abs(a) - np.abs(b)) ** 2) / inside.sum()
            return beta * cosine + (1 - beta) * squared if high else cosine

        entries = [
            (error(y, s, p, f) - error(y, t, p, f), error(t, s, p, f))
            for p in range(0, y.shape[0], size)
            for f in range(y.shape[1])
            if mask[p : p + size, f].any()
        ]
        gap, loss = np.array(entries).T
        total += loss[chosen(gap, share)].mean()
    assert value.item() == pytest.approx(total, rel=1e-5)


def test_a_share_of_one_is_the_wrapped_objective_itself():
    signals = waves()
    for inner in (OutputDistillation(on="magnitude", n_fft=510, hop=255), OutputDistillation(on="waveform")):
        plain = inner.loss(exchange(*signals))
        wrapped = SelectivePatches(inner, share=1.0, patch_bins=16).loss(exchange(*signals))
        assert wrapped.item() == pytest.approx(plain.item(), rel=1e-4)


def test_any_output_objective_learns_nothing_where_the_teacher_is_not_worth_it():
    """The teacher is perfect below 4 kHz and useless above: above, the student's spectrum gets no gradient."""
    noisy, clean, *_ = waves(items=1)
    objective = SelectivePatches(OutputDistillation(on="waveform", distance="l2"), share=0.45, patch_bins=1)
    spectrum = objective.stft(clean)
    split = 128  # half of the bins: more than the share that is kept
    bad = spectrum.clone()
    bad[:, split:] = 1000 * torch.randn_like(bad[:, split:])
    teacher = objective.stft.inverse(bad, N)
    shares = {}
    for name, made in (("plain", objective.objective), ("selective", objective)):
        student = (0.5 * clean).requires_grad_()
        made.loss(exchange(noisy, clean, teacher, student)).backward()
        gradient = objective.stft(student.grad)[0].abs().square().mean(1)
        shares[name] = (gradient[split + 8 :].sum() / gradient[: split - 8].sum()).item()
    assert shares["selective"] < 0.1 and shares["plain"] > 100  # (what is left leaks over from frame to frame)


def test_items_without_clean_speech_are_left_out_and_none_at_all_is_zero():
    noisy, clean, teacher, student = waves()
    objective = SelectivePatches()
    labelled = torch.tensor([True, False])
    value = objective.loss(exchange(noisy, clean * labelled[:, None], teacher, student, labelled=labelled))
    alone = objective.loss(exchange(noisy[:1], clean[:1], teacher[:1], student[:1]))
    assert value.item() == pytest.approx(alone.item(), rel=1e-9)
    student.requires_grad_()
    none = objective.loss(exchange(noisy, 0 * clean, teacher, student, labelled=torch.zeros(2, dtype=torch.bool)))
    none.backward()
    assert none.item() == 0 and torch.all(student.grad == 0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"share": 0}, "share"),
        ({"objective": OutputDistillation(on="mask")}, "mask"),
        ({"patch_bins": 0}, "patch_bins"),
        ({"objective": SimilarityPreserving()}, "taps"),
    ],
)
def test_impossible_settings_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        SelectivePatches(**arguments)


def test_data_without_clean_speech_is_a_clear_error():
    noisy, _, teacher, student = waves()
    with pytest.raises(ValueError, match="needs clean speech"):
        SelectivePatches().loss(exchange(noisy, None, teacher, student))
