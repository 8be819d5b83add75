"""A taught set trains what its teacher would have: the same items, to 16 bits, or a refusal that says what differs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdse.audio.files import read
from kdse.cli import main
from kdse.data import Mixtures, NoisyFolder, PairedFolders
from kdse.data.taught_set import LARGEST, TaughtSet, fetch
from kdse.distiller import Distiller
from kdse.models import Recorded, Teachers
from kdse.objectives import Hint
from tests.data.small_corpus import RATE, hiss, put
from tests.taught import AS_IT_IS, BATCH, EPOCHS, STEPS, make_folder, mixtures, teach, train
from tests.toys import make_student, make_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("taught"))


def test_a_taught_set_is_what_the_live_teacher_says_to_sixteen_bits(folder):
    taught, teacher = TaughtSet(folder / "set"), make_teacher().eval()
    items = mixtures(folder).train_dataloader().dataset
    assert len(taught) == STEPS * BATCH * EPOCHS
    for number in range(len(taught)):
        (item,) = fetch(items, [divmod(number, STEPS * BATCH)])
        with torch.no_grad():
            live = teacher(item["noisy"][None]).waveform[0]
        step = float(live.abs().max()) / LARGEST
        assert (taught.wave(number) - live).abs().max() <= 0.51 * step + 1e-6 * live.abs().max()


def test_training_on_a_set_is_training_under_its_teacher_on_the_same_items(folder, tmp_path):
    both = Teachers([make_teacher(), Recorded()], "mean")
    live = train(tmp_path, mixtures(folder, taught_set=str(folder / "set")), both)
    # (both teachers are the same, so their mean is either; the items repeat after two epochs in all three runs)
    recorded = train(tmp_path, mixtures(folder, taught_set=str(folder / "set")), Recorded())
    start = torch.cat([p.detach().flatten() for p in _student().parameters()])
    moved = float((live - start).abs().max())
    assert moved > 1e-5
    torch.testing.assert_close(recorded, live, atol=1e-3 * moved, rtol=0)


def _student() -> torch.nn.Module:
    torch.manual_seed(0)
    return Distiller(teacher=Recorded(), student=make_student, metrics=["si_sdr"]).student


def test_training_goes_through_the_same_items_again_whatever_the_size_of_a_batch(folder):
    plain = [batch for epoch in range(EPOCHS) for batch in _epoch(mixtures(folder), epoch)]
    noisy = torch.cat([batch["noisy"] for batch in plain])
    for size, steps in ((BATCH, STEPS), (5, 7)):
        data = mixtures(folder, taught_set=str(folder / "set"), batch_size=size, steps_per_epoch=steps)
        heard = torch.cat([batch["noisy"] for epoch in range(5) for batch in _epoch(data, epoch)])
        assert len(heard) > 2 * len(noisy)
        torch.testing.assert_close(heard, noisy.repeat(8, 1)[: len(heard)], atol=1e-6, rtol=0)


def _epoch(data: Mixtures, epoch: int) -> list[dict]:
    loader = data.train_dataloader()
    loader.batch_sampler.epoch = epoch
    return list(loader)


def test_the_seed_of_a_set_is_taken_where_a_run_names_none_of_its_own(folder):
    torch.manual_seed(77)
    assert mixtures(folder, taught_set=str(folder / "set"), seed=None).seed == 5
    assert mixtures(folder, seed=None).seed == 77


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 6), ("segment_seconds", 0.6), ("snr_db", [0.0, 9.0]), ("snr_definition", "active"), ("reverb_share", 0.5),
     ("level_dbfs", [-30, -20]), ("minimum_active_dbfs", -50.0)],
)  # fmt: skip
def test_a_set_of_other_settings_is_refused_by_their_name(folder, name, value):
    with pytest.raises(ValueError, match=rf"--data\.taught_set .*taught with --data\.{name} .*this run has"):
        mixtures(folder, taught_set=str(folder / "set"), **{name: value}).train_dataloader()


def test_a_set_of_other_recordings_is_refused_by_their_names_or_else_by_their_sound(folder, tmp_path):
    shutil.copytree(folder / "corpus", tmp_path / "corpus")
    file = tmp_path / "corpus" / "speech" / "train" / "voice0.flac"
    wave = read(file, RATE).numpy()
    put(file, np.where(np.arange(len(wave)) < 9000, 0.2 * wave, wave))
    other = {"root": str(tmp_path / "corpus"), "taught_set": str(folder / "set"), "level_dbfs": [-36, -20]}
    with pytest.raises(ValueError, match="was taught on other audio"):
        mixtures(folder, **other).train_dataloader()
    file.rename(file.with_name("voice9.flac"))
    with pytest.raises(ValueError, match="was taught on other recordings"):
        mixtures(folder, **other).train_dataloader()


def test_a_folder_is_taught_as_a_whole_and_any_crop_of_it_trains(folder, tmp_path):
    command = ["teach", str(folder / "one.ckpt"), "--folder", str(folder / "noisy"), "--out", str(tmp_path / "set")]
    assert main([*command, *AS_IT_IS]) == 0
    common = {"segment_seconds": 0.4, "batch_size": 2, "seed": 3, "taught_set": str(tmp_path / "set")}
    pairs = {"train_noisy": str(folder / "noisy"), "train_clean": str(folder / "clean"), "valid_share": 0.3}
    teacher = make_teacher().eval()
    whole = {}
    for name in map(str, range(4)):
        with torch.no_grad():
            whole[f"a/{name}"] = teacher(read(folder / "noisy" / "a" / f"{name}.wav", RATE)[None]).waveform[0]
    for data in (NoisyFolder(str(folder / "noisy"), **common), PairedFolders(**pairs, **common)):
        for batch in data.train_dataloader():
            for name, noisy, taught in zip(batch["name"], batch["noisy"], batch["taught"], strict=True):
                name = name.split("-", 2)[2]
                recording = read(folder / "noisy" / f"{name}.wav", RATE)
                start = next(i for i in range(len(recording)) if torch.equal(recording[i : i + 64], noisy[:64]))
                answer = whole[name][start : start + 6400]
                torch.testing.assert_close(taught[: len(answer)], answer, atol=float(answer.abs().max()) / 5e4, rtol=0)
                torch.testing.assert_close(taught, answer.repeat(9)[:6400], atol=1e-5, rtol=0)  # (a short one repeats)
    batch = next(iter(data.val_dataloader()))
    torch.testing.assert_close(batch["taught"][0], whole[batch["name"][0]], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="was taught on a folder of recordings, not on mixtures"):
        mixtures(folder, taught_set=str(tmp_path / "set"))
    put(tmp_path / "more" / "new.wav", hiss(0.5))
    with pytest.raises(ValueError, match="holds nothing for new; run `kdse teach --folder`"):
        NoisyFolder(str(tmp_path / "more"), **common).train_dataloader()


def test_crops_of_recordings_without_clean_speech_are_taught_by_config(folder, tmp_path):
    settings = {"folder": str(folder / "noisy"), "segment_seconds": 0.4}
    data = {"class_path": "kdse.data.NoisyFolder", "init_args": settings}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": data}))
    command = ["teach", str(folder / "one.ckpt"), "--config", str(tmp_path / "run.yaml")]
    flags = ["--out", str(tmp_path / "set"), "--data.batch_size=2", "--data.seed", "3"]
    assert main([*command, *flags, *AS_IT_IS]) == 0
    module = NoisyFolder(**settings, batch_size=2, taught_set=str(tmp_path / "set"))
    for batch in module.train_dataloader():
        with torch.no_grad():
            live = make_teacher().eval()(batch["noisy"]).waveform
        torch.testing.assert_close(batch["taught"], live, atol=float(live.abs().max()) / 5e4, rtol=0)


def test_taps_that_were_stored_teach_as_those_of_the_network(folder, tmp_path):
    assert teach(folder, tmp_path / "set", "--epochs", str(EPOCHS), "--taps", "encoder1", "bottleneck") == 0
    taps = TaughtSet(tmp_path / "set").taps
    assert taps["bottleneck"]["group"] == "bottleneck"
    data = mixtures(folder, taught_set=str(tmp_path / "set"))
    students = [
        train(tmp_path, data if recorded else mixtures(folder), teacher, Hint(pairs=[["encoder1", "encoder1"]]))
        for recorded, teacher in ((True, Recorded(taps=taps, fixed_samples=8000)), (False, make_teacher()))
    ]
    shorter = STEPS * EPOCHS  # (then the live run hears new items)
    assert shorter == 6
    torch.testing.assert_close(*students, atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="activations"):
        train(tmp_path, data, Recorded(), Hint())


def test_several_teachers_are_kept_apart_and_combined_in_training_with_live_ones(folder, tmp_path):
    out = tmp_path / "set"
    assert teach(folder, out, models=("one", "two")) == 0
    taught = TaughtSet(out)
    assert taught.teachers == ["one", "two"] and taught.wave(3).shape == (2, 8000)
    torch.testing.assert_close(taught.wave(3)[0], TaughtSet(folder / "set").wave(3), atol=1e-6, rtol=0)
    data = mixtures(folder, taught_set=str(out))
    batch = next(iter(data.train_dataloader()))
    assert batch["taught"].shape == (BATCH, 2, 8000)
    teacher = Teachers([Recorded(), make_teacher()], "median").eval()
    with torch.no_grad():
        target = teacher.estimate(batch["noisy"], batch["taught"]).waveform
        live = make_teacher().eval()(batch["noisy"]).waveform
    three = np.stack([*batch["taught"].unbind(1), live]).astype(np.float64)
    np.testing.assert_allclose(target.numpy(), np.median(three, 0), atol=1e-6)
    assert train(tmp_path, data, teacher).isfinite().all()
    with pytest.raises(ValueError, match="outputs of 2 teachers; say how they are combined"):
        train(tmp_path, data, Recorded())
