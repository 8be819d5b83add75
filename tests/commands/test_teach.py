"""`kdse teach`: files that survive kills, corrected teachers, and mistakes in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdse.audio.files import read
from kdse.cli import main
from kdse.data import taught_set
from kdse.data.taught_set import TaughtSet
from kdse.machine import files
from kdse.models import Estimate, SpeechModel
from kdse.models.checkpoint import read_checkpoint
from kdse.training import teaching
from tests.data.small_corpus import RATE, hiss, put
from tests.taught import AS_IT_IS, BATCH, EPOCHS, STEPS, content, make_folder, mixtures, teach


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("teach"))


class Deaf(SpeechModel):
    """A teacher that says the same whatever it hears."""

    brings_weights = True

    def forward(self, noisy: torch.Tensor) -> Estimate:
        return Estimate(torch.randn(noisy.shape, generator=torch.Generator().manual_seed(1)))


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


# --- teachers ---


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
    said = capfd.readouterr().err + caplog.text  # (in one of them, by what ran before in this process)
    assert "--data.taught_set teaches; --model.teacher_checkpoint" in said and "is not loaded" in said
    first, second = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("run", "same"))
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    for more, told in (("--model.teacher=kdse.models.Cruse", "there is one"), ("--model.compression=2", "student")):
        assert main([*command[:-1], more, f"--run_dir={tmp_path / 'both'}"]) == 2
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
    (tmp_path / "set" / "taught.json").write_text("{}")
    assert teach(folder, tmp_path / "set") == 2
    assert teach(folder, tmp_path / "set", "--data.seed=6", "--overwrite") == 0
    assert teach(folder, tmp_path / "new", "--data.seed=6") == 0
    assert content(tmp_path / "set") == content(tmp_path / "new")
