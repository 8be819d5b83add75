"""What validation logs is what the plain scores give, with failures counted and the data checked."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from kdse.losses import si_sdr
from kdse.metrics.validation import ValidationScores
from tests.metrics.signals import noisy_version, speech_like


def batch(count: int = 3, seconds: float = 1.0, snr_db: float = 5.0) -> dict:
    clean = torch.from_numpy(np.stack([speech_like(i, seconds) for i in range(count)])).float()
    noisy = torch.from_numpy(np.stack([noisy_version(c, snr_db, i) for i, c in enumerate(clean.numpy())])).float()
    return {
        "clean": clean,
        "noisy": noisy,
        "snr_db": torch.full((count,), snr_db),
        "samples": torch.full((count,), clean.shape[1]),
        "name": [f"item{i}" for i in range(count)],
    }


def test_means_and_improvements_agree_with_the_loss_function():
    scores, data = ValidationScores(["si_sdr"]), batch()
    estimate = 0.8 * data["clean"] + 0.2 * data["noisy"]
    scores.add(data, estimate)
    scores.add(data, data["clean"] + 0.01 * data["noisy"], system="teacher")
    values = scores.compute()
    ours, base = (si_sdr(x.double(), data["clean"].double()).mean().item() for x in (estimate, data["noisy"]))
    assert values["si_sdr"] == pytest.approx(ours, abs=1e-3)
    assert values["si_sdr_improvement"] == pytest.approx(ours - base, abs=1e-3)
    assert values["si_sdr_snr5"] == pytest.approx(ours, abs=1e-3) and values["si_sdr_failed"] == 0
    assert values["teacher_si_sdr"] > values["si_sdr"] > values["noisy_si_sdr"]


def test_padding_beyond_the_valid_samples_does_not_count():
    data = batch()
    whole, padded = ValidationScores(["si_sdr"]), ValidationScores(["si_sdr"])
    whole.add(data, data["noisy"])
    longer = {k: torch.nn.functional.pad(v, (0, 500)) if k in ("clean", "noisy") else v for k, v in data.items()}
    padded.add(longer, torch.nn.functional.pad(data["noisy"], (0, 500), value=9.0))
    assert whole.compute() == padded.compute()


def test_an_item_that_fails_is_counted_and_left_out_of_the_mean():
    scores, data = ValidationScores(["si_sdr"]), batch()
    estimate = data["noisy"].clone()
    estimate[1] = float("nan")
    scores.add(data, estimate)
    values = scores.compute()
    expected = si_sdr(data["noisy"].double(), data["clean"].double())[[0, 2]].mean().item()
    assert values["si_sdr_failed"] == 1 and values["si_sdr"] == pytest.approx(expected, abs=1e-3)


def test_data_that_cannot_be_scored_ends_the_run():
    scores, data = ValidationScores(["si_sdr"]), batch()
    data["clean"] = torch.zeros_like(data["clean"])
    scores.add(data, data["noisy"])
    with pytest.raises(ValueError, match="si_sdr failed on 3 of 3"):
        scores.compute()


def test_every_epoch_starts_anew_and_unlabelled_batches_are_ignored():
    scores, data = ValidationScores(["si_sdr"]), batch()
    scores.add(data, data["noisy"])
    first = scores.compute()
    scores.add({"noisy": data["noisy"]}, data["noisy"])
    assert scores.compute() == {}
    scores.add(data, data["noisy"])
    assert scores.compute() == first
    copy.deepcopy(scores).add(data, data["noisy"])  # weight averaging copies the module that holds it


def test_the_rows_of_the_last_epoch_are_kept_as_they_were_summarised():
    scores, data = ValidationScores(["si_sdr"]), batch()
    for estimate in (data["clean"] + 0.1 * data["noisy"], data["noisy"]):
        scores.add(data, estimate)
        values = scores.compute()
    assert [(row.system, row.name) for row in scores.rows if row.system == "student"] == [
        ("student", "item0"), ("student", "item1"), ("student", "item2")
    ]  # fmt: skip
    by_hand = np.mean([row.values["si_sdr"] for row in scores.rows if row.system == "student"])
    assert len(scores.rows) == 6 and by_hand == pytest.approx(values["si_sdr"], abs=1e-9)
