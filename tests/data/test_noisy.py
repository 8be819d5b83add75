"""Noisy recordings alone: batches without clean speech, in an order that a resumed run goes on with."""

import math

import numpy as np
import pytest
import torch

from kdse.audio.files import read
from kdse.cli import main
from kdse.data import NoisyFolder
from kdse.distiller import Distiller
from kdse.evaluation.held_out import from_module
from kdse.models.checkpoint import load_model
from kdse.objectives import OutputDistillation
from kdse.schedule import Joint
from tests.data.small_corpus import hiss, put, tone_and_pauses
from tests.data.test_position import SaveEveryStep, fit, names, on_rank
from tests.toys import make_student, make_teacher, make_trainer

FILES = 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Recordings of different lengths and rates in subfolders, and two pairs to validate on."""
    root = tmp_path_factory.mktemp("recordings")
    for i in range(FILES):
        rate = 48000 if i == 3 else 16000
        seconds = 0.1 if i == 5 else 0.3 + 0.01 * i
        wave = tone_and_pauses(seconds, rate, i) + hiss(seconds, rate, i)
        put(root / "noisy" / f"day{i % 2}" / f"{i}.wav", wave, rate, subtype="FLOAT")
    for i in range(2):
        put(root / "valid" / "clean" / f"{i}.wav", tone_and_pauses(0.5, seed=50 + i))
        put(root / "valid" / "noisy" / f"{i}.wav", tone_and_pauses(0.5, seed=50 + i) + hiss(0.5, seed=50 + i))
    return root


def make_data(folder, **settings) -> NoisyFolder:
    return NoisyFolder(
        str(folder / "noisy"), **{"segment_seconds": 0.2, "batch_size": 2, "steps_per_epoch": 4, "seed": 1, **settings}
    )


def validated(folder, **settings) -> NoisyFolder:
    pairs = {"valid_noisy": str(folder / "valid" / "noisy"), "valid_clean": str(folder / "valid" / "clean")}
    return make_data(folder, **pairs, **settings)


def test_a_training_batch_has_no_clean_speech(folder):
    batch = next(iter(make_data(folder).train_dataloader()))
    assert set(batch) == {"noisy", "snr_db", "samples", "name", "index"}
    assert batch["noisy"].shape == (2, 3200) and batch["noisy"].dtype == torch.float32
    assert batch["samples"].tolist() == [3200, 3200] and batch["snr_db"].isnan().all()


def test_an_item_is_a_part_of_its_recording_or_the_whole_of_a_short_one_repeated(folder):
    (batch,) = list(make_data(folder, batch_size=FILES, steps_per_epoch=1).train_dataloader())
    assert len(set(batch["name"])) == FILES  # once through the recordings
    for name, crop in zip(batch["name"], batch["noisy"], strict=True):
        whole = read(folder / "noisy" / f"{name.split('-', 2)[2]}.wav", 16000)
        if len(whole) < 3200:
            assert torch.equal(crop, whole.repeat(2)[:3200])
        else:
            assert (whole.unfold(0, 3200, 1) - crop).abs().amax(1).min() < 1e-5


def test_an_item_is_a_pure_function_of_seed_epoch_and_index(folder):
    def items(**settings):
        loader = make_data(folder, **settings).train_dataloader()
        return [(tuple(b["name"]), b["noisy"].numpy().tobytes()) for _ in range(2) for b in loader]

    one = items()
    torch.manual_seed(12345)
    np.random.seed(5)
    assert one == items()
    assert len({content for _, content in one}) == 8  # both epochs
    assert not {content for _, content in one} & {content for _, content in items(seed=2)}


def test_without_a_number_of_steps_an_epoch_is_once_through_the_recordings(folder):
    loader = make_data(folder, steps_per_epoch=None, batch_size=3).train_dataloader()
    assert len(loader) == FILES // 3
    recordings = [name.split("-", 2)[2] for name in names(loader)]
    assert len(recordings) == len(set(recordings)) == 12


def test_a_resumed_run_skips_and_repeats_nothing(tmp_path, folder):
    whole = fit(make_data(folder), tmp_path, callbacks=[SaveEveryStep(tmp_path)])
    assert len(set(whole)) == 10
    for step in (1, 3, 4, 5, 8):
        rest = fit(make_data(folder), tmp_path, ckpt=str(tmp_path / f"{step}.ckpt"))
        assert rest == whole[step:], f"resumed after step {step}"


def test_two_ranks_see_what_one_process_with_the_global_batch_sees(folder):
    ranks = [on_rank(make_data(folder), rank, 2) for rank in range(2)]
    parts = [list(module.train_dataloader()) for module in ranks]
    together = [name for pair in zip(*parts, strict=True) for batch in pair for name in batch["name"]]
    assert together == names(make_data(folder, batch_size=4).train_dataloader())


def test_validation_and_test_items_are_the_pairs_and_have_clean_speech(folder):
    module = validated(folder)
    for loader in (module.val_dataloader(), module.test_dataloader()):
        (batch,) = list(loader)
        assert batch["name"] == ["0", "1"] and batch["clean"].abs().sum(1).min() > 0
    items = list(from_module(validated(folder), {}))
    assert [item.name for item in items] == ["0", "1"] and all(math.isnan(item.snr_db) for item in items)


def test_without_pairs_there_is_no_validation_and_a_test_says_what_is_missing(folder):
    assert make_data(folder).val_dataloader() == []
    with pytest.raises(ValueError, match=r"--data\.valid_noisy and --data\.valid_clean"):
        make_data(folder).test_dataloader()


@pytest.mark.parametrize("make", [make_data, validated])
def test_a_student_learns_from_its_teacher_alone(folder, tmp_path, make):
    model = Distiller(teacher=make_teacher(), student=make_student(), metrics=["si_sdr"])
    before = [p.clone() for p in model.student.parameters()]
    callbacks = [OutputDistillation(on="waveform"), Joint(gamma=1.0)]
    trainer = make_trainer(tmp_path, callbacks, max_steps=2, limit_val_batches=1.0, val_check_interval=2)
    trainer.fit(model, make(folder))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.student.parameters(), strict=True))
    assert ("val/si_sdr" in trainer.callback_metrics) == (make is validated)


def test_the_supervised_loss_asks_for_clean_speech(folder, tmp_path):
    model = Distiller(teacher=make_teacher(), student=make_student(), metrics=["si_sdr"])
    with pytest.raises(ValueError, match="needs clean speech"):
        make_trainer(tmp_path, [OutputDistillation(on="waveform"), Joint(gamma=0.5)]).fit(model, make_data(folder))


def test_a_run_without_validation_works_from_the_command_line(folder, tmp_path, capsys):
    flags = [
        "--model=kdse.Distiller", "--model.teacher=kdse.models.Cruse", "--model.teacher.channels=[4,8,8,12]",
        "--model.compression=2", "--objectives={out: {class_path: kdse.objectives.OutputDistillation}}",
        "--schedule=kdse.schedule.Joint", "--schedule.gamma=1", "--data=kdse.data.NoisyFolder",
        f"--data.folder={folder / 'noisy'}", "--data.segment_seconds=0.2", "--data.batch_size=2",
        "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false", f"--run_dir={tmp_path}",
    ]  # fmt: skip
    assert main(["fit", *flags]) == 0, capsys.readouterr().err
    assert load_model(tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"valid_noisy": "x"}, "--data.valid_noisy and --data.valid_clean go together"),
        ({"batch_size": 0}, "--data.batch_size"),
        ({"steps_per_epoch": 0}, "--data.steps_per_epoch"),
        ({"segment_seconds": 0}, "--data.segment_seconds"),
        ({"sample_rate_hz": 0}, "--data.sample_rate_hz"),
        ({"num_workers": -1}, "--data.num_workers"),
    ],
)
def test_impossible_settings_are_refused_by_name(folder, settings, flag):
    with pytest.raises(ValueError, match=flag):
        make_data(folder, **settings)


def test_a_missing_folder_and_an_empty_recording_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"--data\.folder .*nowhere: no such folder"):
        NoisyFolder(str(tmp_path / "nowhere")).train_dataloader()
    put(tmp_path / "blip.wav", hiss(0.0001, 48000), 48000)
    with pytest.raises(ValueError, match=r"blip\.wav: holds no samples at 8000 Hz"):
        NoisyFolder(str(tmp_path), sample_rate_hz=8000).train_dataloader()
