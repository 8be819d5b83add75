"""`kdse teach`: a set equals the live teacher to 16 bits, survives kills, and trains what the teacher would have."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdse.audio.files import read
from kdse.cli import main
from kdse.data import Mixtures, NoisyFolder, PairedFolders, taught_set
from kdse.data.taught_set import LARGEST, TaughtSet, fetch
from kdse.distiller import Distiller
from kdse.machine import files
from kdse.models import Estimate, Recorded, SpeechModel, Teachers
from kdse.models.checkpoint import read_checkpoint
from kdse.objectives import Hint, OutputDistillation
from kdse.schedule import Joint
from kdse.training import teaching
from tests.data.small_corpus import RATE, hiss, make_corpus, put, tone_and_pauses
from tests.tiny_run import save_model
from tests.toys import make_student, make_teacher, make_trainer

STEPS, BATCH, EPOCHS = 3, 4, 2
#: An untrained teacher answers noise: nothing can be measured on it.
AS_IT_IS = ["--delay-samples", "0", "--gain", "1", "--workers", "0"]
SETTINGS = {"snr_db": [0.0, 10.0], "segment_seconds": 0.5, "steps_per_epoch": STEPS, "batch_size": BATCH}
SETTINGS |= {"validation_items": 2, "validation_seconds": 0.5}


def config(folder: Path, **data: object) -> Path:
    module = {"class_path": "kdse.data.Mixtures", "init_args": {"root": str(folder / "corpus"), **SETTINGS, **data}}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"seed_everything": 5, "data": module}))
    return path


def teach(folder: Path, out: Path, *more: str, models: Sequence[str] = ("one",)) -> int:
    command = ["teach", *(f"{name}={folder / name}.ckpt" for name in models), "--config", str(folder / "run.yaml")]
    return main([*command, "--out", str(out), *AS_IT_IS, *more])


class Deaf(SpeechModel):
    """A teacher that says the same whatever it hears."""

    brings_weights = True

    def forward(self, noisy: torch.Tensor) -> Estimate:
        return Estimate(torch.randn(noisy.shape, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A corpus, noisy and clean recordings, two teachers, and a set of the first on two epochs of mixtures."""
    root = tmp_path_factory.mktemp("teach")
    make_corpus(root / "corpus", files=2)
    for i, seconds in enumerate((0.3, 0.7, 0.9, 0.5)):
        clean = tone_and_pauses(seconds, seed=i)
        put(root / "clean" / f"a/{i}.wav", clean, subtype="FLOAT")
        put(root / "noisy" / f"a/{i}.wav", clean + hiss(seconds, seed=i), subtype="FLOAT")
    save_model(make_teacher(), root / "one.ckpt")
    torch.manual_seed(1)
    save_model(make_student(), root / "two.ckpt")
    config(root)
    assert teach(root, root / "set", "--epochs", str(EPOCHS)) == 0
    return root


def mixtures(folder: Path, **settings: object) -> Mixtures:
    return Mixtures(**{"root": str(folder / "corpus"), **SETTINGS, "seed": 5, **settings})


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != teaching.LOCK}


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


def train(folder: Path, data: Mixtures, teacher: object, objective: object = None) -> torch.Tensor:
    torch.manual_seed(0)
    module = Distiller(
        teacher=teacher, student=make_student, metrics=["si_sdr"], optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )
    objective = objective or OutputDistillation(distance="l2")
    trainer = make_trainer(folder, [objective, Joint(1.0)], max_steps=STEPS * EPOCHS + 1, max_epochs=-1)
    trainer.fit(module, data)
    return torch.cat([p.detach().flatten() for p in module.student.parameters()])


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


# --- kills ---


class Killed(BaseException):
    """What no handler of errors takes."""


def test_a_teach_that_is_killed_at_any_file_goes_on_to_the_same_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(taught_set, "PIECE_SAMPLES", 40_000)  # five items
    assert teach(folder, tmp_path / "whole", "--epochs", "2", "--taps", "encoder1") == 0
    whole = content(tmp_path / "whole")
    assert len(whole) == 1 + 3 * 5
    replace = files.os.replace
    for last in range(0, 16, 3):
        out, left = tmp_path / str(last), last

        def dying(source, target, out=out):
            nonlocal left
            if left == 0 and Path(target).parent == out:
                raise Killed
            left -= 1
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", dying)
        with pytest.raises(Killed):
            teach(folder, out, "--epochs", "2", "--taps", "encoder1")
        monkeypatch.setattr(files.os, "replace", replace)
        assert list(out.glob(".*.partial"))  # what a kill leaves behind
        made = []
        monkeypatch.setattr(teaching.Teaching, "piece", _noted(made, teaching.Teaching.piece))
        assert teach(folder, out, "--epochs", "2", "--taps", "encoder1") == 0
        monkeypatch.undo()
        monkeypatch.setattr(taught_set, "PIECE_SAMPLES", 40_000)
        assert content(out) == whole and len(made) == 5 - max(0, last - 1) // 3


def _noted(made: list[int], piece):
    def noted(self, number):
        made.append(number)
        return piece(self, number)

    return noted


def test_a_set_grows_by_epochs_and_a_piece_that_is_damaged_is_made_again(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(taught_set, "PIECE_SAMPLES", 40_000)
    out = tmp_path / "set"
    assert teach(folder, out) == 0
    (out / "000001.npy").write_bytes((out / "000001.npy").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"is not complete \(1 of 3 pieces.*same `kdse teach` again"):
        mixtures(folder, taught_set=str(out)).train_dataloader()
    assert teach(folder, out, "--epochs", "2") == 0
    assert teach(folder, tmp_path / "whole", "--epochs", "2") == 0
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.integration
def test_processes_make_the_same_files_as_none(folder, tmp_path):
    assert teach(folder, tmp_path / "set", "--epochs", str(EPOCHS), "--workers", "2") == 0
    assert content(tmp_path / "set") == content(folder / "set")


# --- folders, taps, several ---


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


class Late(SpeechModel):
    """A teacher that is 40 samples late, at half the level and of the other polarity."""

    brings_weights = True

    def forward(self, noisy: torch.Tensor) -> Estimate:
        return Estimate(-0.5 * torch.nn.functional.pad(noisy, (40, 0))[:, : noisy.shape[1]])


def test_delay_and_level_are_measured_and_taken_out(folder, tmp_path, capsys):
    command = ["teach", f"{__name__}.Late", "--config", str(folder / "run.yaml"), "--out", str(tmp_path / "set")]
    assert main([*command, "--workers", "0"]) == 0
    assert re.search(r"Late: 40 samples late, level -0\.(49|50)", capsys.readouterr().err)
    for batch in mixtures(folder, taught_set=str(tmp_path / "set")).train_dataloader():
        gain = (batch["taught"] * batch["noisy"]).sum() / batch["noisy"].square().sum()
        assert abs(20 * np.log10(float(gain))) < 0.5  # (the probe is at 20 dB)
        torch.testing.assert_close(batch["taught"], gain * batch["noisy"], atol=1e-4, rtol=0)


def test_a_long_recording_is_heard_in_chunks_that_a_teacher_without_memory_does_not_notice(tmp_path, monkeypatch):
    put(tmp_path / "noisy" / "long.wav", hiss(3.3), subtype="FLOAT")
    monkeypatch.setattr(teaching, "CHUNK_SECONDS", 1.0)
    monkeypatch.setattr(teaching, "FADE_SECONDS", 0.1)
    command = ["teach", "kdse.models.Wrapped", "--init", "class_path=tests.data.test_taught.Halving"]
    assert main([*command, "--folder", str(tmp_path / "noisy"), "--out", str(tmp_path / "set"), *AS_IT_IS]) == 0
    noisy = read(tmp_path / "noisy" / "long.wav", RATE)
    torch.testing.assert_close(TaughtSet(tmp_path / "set").wave(0), 0.5 * noisy, atol=1e-5, rtol=0)


# --- the command line ---


def test_a_set_teaches_in_the_place_of_a_checkpoint_and_beside_no_network(folder, tmp_path, capfd, caplog):
    student = {"class_path": "kdse.models.Cruse", "init_args": {"channels": [2, 4, 4, 4]}}
    model = {"class_path": "kdse.Distiller", "init_args": {"student": student, "metrics": ["si_sdr"]}}
    loss = {"class_path": "kdse.objectives.TaughtLoss", "init_args": {"loss": {"class_path": "kdse.losses.SiSdr"}}}
    settings = {**yaml.safe_load((folder / "run.yaml").read_text()), "model": model, "objectives": {"taught": loss}}
    settings |= {"schedule": {"class_path": "kdse.schedule.Joint", "init_args": {"gamma": 1.0}}}
    settings |= {"trainer": {"max_steps": 2, "accelerator": "cpu"}, "example_every_n_validations": 0}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    command = ["fit", "--config", str(tmp_path / "run.yaml"), f"--data.taught_set={folder / 'set'}"]
    assert main([*command, f"--run_dir={tmp_path / 'run'}"]) == 0
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["model"]["init_args"]["teacher"]["class_path"] == "kdse.models.Recorded"
    command.append(f"--model.teacher_checkpoint={folder / 'one.ckpt'}")
    caplog.set_level("INFO")
    assert main([*command, f"--run_dir={tmp_path / 'same'}"]) == 0
    assert "--data.taught_set teaches; --model.teacher_checkpoint" in caplog.text and "is not loaded" in caplog.text
    first, second = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("run", "same"))
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    for more, told in (("--model.teacher=kdse.models.Cruse", "there is one"), ("--model.compression=2", "student")):
        assert main([*command, more, f"--run_dir={tmp_path / 'both'}"]) == 2
        assert told in capfd.readouterr().err.splitlines()[-1] and not (tmp_path / "both").exists()


def test_size_and_time_are_stated_before_the_work_and_the_result_after_it(folder, tmp_path, capsys):
    assert teach(folder, tmp_path / "set", "--json") == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["made"] == report["items"] == STEPS * BATCH and not said.err
    on_disk = sum(path.stat().st_size for path in (tmp_path / "set").glob("*.npy"))
    assert abs(on_disk - report["bytes"]) <= 1000
    assert teach(folder, tmp_path / "set", "--epochs", "3") == 0
    said = capsys.readouterr().err
    assert re.search(r"36 items \(0\.01 hours\), 0 of them there; 1 MB to write in about \d+ s", said)  # (one piece)
    assert "one: 0 samples late, level 1.000 (as given): taken out" in said and "teach: 36/36 items after" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--out", "CORPUS"], r"--out .*corpus: is not empty and holds no taught set"),
        (["--data.seed", "6"], r"--out .*set: holds a set with other seed \(5, not 6\); .*--overwrite"),
        (["--epochs", "1"], r"--out .*set: holds a set with other epochs \(2, not 1\)"),
        (["--models", "two"], r"--out .*set: holds a set with other teachers"),
        (["--taps", "nowhere"], r"nowhere"),
        (["--gain", "1", "2"], r"--gain: give one value, or one for each of the 1 teachers"),
        (["--data.snr=3"], r"--data\.snr: .*did you mean --data\.snr_db"),
        (["--folder", "CORPUS"], r"--config, --folder: give one of them"),
        (["--config", "CORPUS/none.yaml"], r"none.yaml: not readable"),
        (["--models", "two", "--taps", "encoder1"], r"--taps: .*give one MODEL"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_the_set_as_it_was(folder, more, said, capfd):
    before = content(folder / "set")
    models = ("one", "two") if "--models" in more else ("one",)
    words = [word.replace("CORPUS", str(folder / "corpus")) for word in more if word not in ("--models", "two")]
    assert teach(folder, folder / "set", "--epochs", "2", *words, models=models) == 2
    lines = capfd.readouterr().err.splitlines()
    assert re.search(said, lines[-1]) and not any("Traceback" in line for line in lines)
    assert content(folder / "set") == before


def test_what_does_not_fit_on_the_disk_is_not_begun(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    assert teach(folder, tmp_path / "set") == 2
    assert re.search(r"--out .*set: 0\.00 GB are needed and 0\.00 GB are free", capfd.readouterr().err)
    assert not (tmp_path / "set").exists()


def test_a_teacher_that_does_not_answer_with_speech_is_not_corrected_but_asked_about(folder, tmp_path, capfd):
    command = ["teach", f"{__name__}.Deaf", "--config", str(folder / "run.yaml"), "--out", str(tmp_path / "set")]
    assert main([*command, "--workers", "0"]) == 2
    assert re.search(r"Deaf: .*correlation.*--delay-samples and --gain", capfd.readouterr().err)


def test_overwrite_makes_another_set_in_the_place_of_one(folder, tmp_path):
    shutil.copytree(folder / "set", tmp_path / "set")
    assert teach(folder, tmp_path / "set", "--data.seed=6", "--overwrite") == 0
    assert teach(folder, tmp_path / "new", "--data.seed=6") == 0
    assert content(tmp_path / "set") == content(tmp_path / "new")
