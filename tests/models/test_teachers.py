"""Several teachers make one target: each rule against a plain loop in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdse.models import Recorded, Teachers
from kdse.models.teachers import TARGETS, combined
from tests.toys import make_student, make_teacher


def wave(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CLEAN = wave(3, 500, seed=1)
#: Four teachers: level and share of noise in each item; another one is best on each item.
ERRORS = [(1.0, [0.1, 1.0, 0.5]), (0.7, [0.5, 0.2, 0.4]), (1.1, [0.9, 0.6, 0.1]), (1.0, [2.0, 3.0, 1.0])]
OUTPUTS = torch.stack(
    [g * CLEAN + torch.tensor(noise)[:, None] * wave(3, 500, seed=2 + i) for i, (g, noise) in enumerate(ERRORS)], 1
)


def by_hand(target: str, outputs: np.ndarray, clean: np.ndarray) -> np.ndarray:
    made = []
    for item, s in zip(outputs, clean, strict=True):
        if target == "mean":
            made.append(sum(item) / len(item))
        elif target == "median":
            made.append(np.median(item, 0))
        elif target == "best":
            ratios = []
            for x in item:
                part = (x @ s) / (s @ s) * s
                ratios.append((part @ part) / ((x - part) @ (x - part)))
            made.append(item[int(np.argmax(ratios))])
        else:
            reference = s if target == "by_clean" else np.median(item, 0)
            errors = [(x - reference) @ (x - reference) / (reference @ reference) for x in item]
            weights = [(1 - error / sum(errors)) / (len(item) - 1) for error in errors]
            assert abs(sum(weights) - 1) < 1e-12
            made.append(sum(w * x for w, x in zip(weights, item, strict=True)))
    return np.stack(made)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_target_is_that_of_a_plain_loop_in_float64(target, count):
    outputs = OUTPUTS[:, :count]
    expected = by_hand(target, outputs.double().numpy(), CLEAN.double().numpy())
    np.testing.assert_allclose(combined(outputs, target, CLEAN).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_one_teacher_is_its_own_target_and_silence_is_finite(target):
    assert torch.equal(combined(OUTPUTS[:, :1], target, CLEAN), OUTPUTS[:, 0])
    silent = torch.zeros(2, 3, 100)
    assert torch.equal(combined(silent, target, torch.zeros(2, 100)), torch.zeros(2, 100))


@pytest.mark.parametrize("target", ["best", "by_clean"])
def test_items_without_clean_speech_get_the_mean_and_data_without_any_is_refused(target):
    labelled = torch.tensor([True, False, True])
    clean = CLEAN * labelled[:, None]
    made = combined(OUTPUTS, target, clean, labelled)
    torch.testing.assert_close(made[1], OUTPUTS[1].mean(0))
    torch.testing.assert_close(made[::2], combined(OUTPUTS, target, CLEAN)[::2])
    with pytest.raises(ValueError, match="needs clean speech and this data has none"):
        combined(OUTPUTS, target)


def test_live_teachers_are_one_model_whose_output_is_their_target():
    noisy = 0.1 * wave(2, 4096, seed=7)
    torch.manual_seed(0)
    first, second = make_teacher().eval(), make_student().eval()
    both = Teachers([first, second], "mean").eval()
    with torch.no_grad():
        torch.testing.assert_close(both(noisy).waveform, (first(noisy).waveform + second(noisy).waveform) / 2)


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(ValueError, match="target=\"loudest\"|target='loudest'"):
        Teachers([make_teacher()], "loudest")
    with pytest.raises(ValueError, match="models is empty"):
        Teachers([])
    with pytest.raises(ValueError, match=r"work at \[8000, 16000\] Hz; wrap them in kdse.models.Aligned"):
        Teachers([make_teacher(), Recorded(8000)])
