"""Examples in TensorBoard are the signals that were validated, at the step of their scores, as often as asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdse.enhancer import Enhancer
from kdse.training.examples import LogExamples, picture
from tests.toys import ToyData, ToySet, make_student, make_trainer


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> EventAccumulator:
    """A run with a validation after optimizer steps 2, 4 and 6, and then a test."""
    folder = tmp_path_factory.mktemp("examples")
    logger = TensorBoardLogger(folder, name="", version="tensorboard")
    trainer = make_trainer(folder, [LogExamples(every_n_validations=2, items=1)], logger=logger, limit_val_batches=1.0,
                           max_steps=6, val_check_interval=2)  # fmt: skip
    model = Enhancer(make_student, metrics=["si_sdr"])
    trainer.fit(model, ToyData(items=24))
    trainer.test(model, ToyData(items=24), verbose=False)
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def test_examples_are_logged_every_so_many_validations_at_the_step_of_their_scores(events):
    scores = [event.step for event in events.Scalars("val/si_sdr")]
    assert scores == [1, 3, 5]
    for tag in ("example0/noisy", "example0/estimate", "example0/clean"):
        assert [event.step for event in events.Audio(tag)] == [1, 5]
    assert len(events.Images("example0/noisy_estimate_clean")) == 2


def test_a_test_is_always_logged_under_its_own_name(events):
    assert len(events.Audio("test/example0/estimate")) == 1


def test_audio_is_the_validated_item_and_all_signals_of_an_item_share_one_level(events):
    found = {}
    for name in ("noisy", "clean", "estimate"):
        found[name], rate = soundfile.read(io.BytesIO(events.Audio(f"example0/{name}")[0].encoded_audio_string))
        assert rate == 16000
    item = ToySet(1)[0]
    peak = max(float(item["noisy"].abs().max()), float(item["clean"].abs().max()))
    peak /= max(np.abs(found[name]).max() for name in ("noisy", "clean"))  # the estimate may be louder than both
    for name in ("noisy", "clean"):
        np.testing.assert_allclose(found[name] * peak, item[name].numpy(), atol=2e-4)
    assert max(np.abs(wave).max() for wave in found.values()) == pytest.approx(1, abs=1e-3)


def test_a_tone_is_bright_in_its_own_row_and_an_80_db_weaker_one_is_black():
    time = torch.arange(16000) / 16000
    tone = torch.sin(2 * torch.pi * 1000 * time)
    rows = picture(tone, reference=tone)[0].mean(dim=1)
    assert rows.shape == (257,) and int(rows.argmax()) == 256 - 1000 * 512 // 16000  # low frequencies at the bottom
    assert float(picture(tone, reference=tone).max()) == 1
    assert float(picture(1e-4 * tone, reference=tone).max()) < 0.01


def test_a_model_that_gives_nan_is_logged_as_silence_and_leaves_the_other_signals_alone(tmp_path):
    class Broken(Enhancer):
        def on_validation_start(self) -> None:
            torch.nn.init.constant_(next(self.model.parameters()), float("nan"))

    logger = TensorBoardLogger(tmp_path, name="", version="tensorboard")
    trainer = make_trainer(tmp_path, [LogExamples(items=1)], logger=logger, limit_val_batches=1)
    trainer.validate(Broken(make_student, metrics=["si_sdr"]), ToyData(), verbose=False)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    level = {}
    for name in ("noisy", "clean", "estimate"):
        wave, _ = soundfile.read(io.BytesIO(found.Audio(f"example0/{name}")[0].encoded_audio_string))
        level[name] = np.abs(wave).max()
    assert level["estimate"] == 0 and level["noisy"] == pytest.approx(1, abs=1e-3) and 0.1 < level["clean"] < 1
