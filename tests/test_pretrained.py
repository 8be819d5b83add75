"""The students in the box are what their card says."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import kdse
from kdse import pretrained
from kdse.cli import main
from kdse.commands.model import labelled
from kdse.distiller import Distiller
from kdse.metrics.registry import score
from kdse.models.budget import count_parameters
from kdse.models.checkpoint import load_model, read_checkpoint
from kdse.models.probe_speech import speech_like
from kdse.models.streaming import Streamer

CARD = (pretrained.FOLDER / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("name", pretrained.names())
def test_size_and_latency_are_those_of_the_card(name):
    model = load_model(pretrained.find(name))
    assert f"{count_parameters(model):,}" in CARD and name in CARD
    assert (model.sample_rate_hz, model.latency_samples, model.causal) == (16000, 512, True)


@pytest.mark.parametrize("name", pretrained.names())
def test_a_box_checkpoint_holds_the_student_and_its_scores_alone(name):
    content = read_checkpoint(pretrained.find(name))
    assert set(content) == {"kdse", "state_dict"} and all(k.startswith("model.") for k in content["state_dict"])
    assert content["kdse"]["scores"]["val/si_sdr_improvement"] > 3 and len(content["kdse"]["config_sha256"]) == 64


@pytest.mark.parametrize("name", pretrained.names())
def test_the_graph_beside_a_checkpoint_is_the_same_student(name):
    pytest.importorskip("onnxruntime")
    checkpoint = pretrained.find(name)
    graph = pretrained.exported(checkpoint)
    assert graph is not None
    noisy = speech_like(16000, 3.0) + 0.02 * torch.randn(1, 48000, generator=torch.Generator().manual_seed(0))
    noisy[:, 20000:30000] = 0  # digital silence too
    with torch.no_grad():
        expected = load_model(checkpoint)(noisy).waveform
    streamer = Streamer(load_model(graph))
    got = torch.cat([*(streamer.push(part) for part in noisy.split(777, dim=1)), streamer.flush()], dim=1)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", pretrained.names())
def test_a_student_of_the_box_takes_noise_out_of_speech(name):
    model = load_model(pretrained.find(name))
    clean = speech_like(16000, 4.0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    noisy = clean + noise * clean.square().mean().sqrt() * 10 ** (-5 / 20)
    with torch.no_grad():
        before, after = (
            score(clean[0].numpy(), wave[0].numpy(), 16000, ["si_sdr"]).values["si_sdr"]
            for wave in (noisy, model(noisy).waveform)
        )
        alone = model(0.02 * noise).waveform.square().mean() / (0.02 * noise).square().mean()
    assert after > before + 3 and 10 * np.log10(float(alone)) < -10


def test_names_and_paths_are_found_and_others_explained():
    assert pretrained.DEFAULT in pretrained.names()
    assert pretrained.find("some/where.ckpt") == Path("some/where.ckpt")
    assert pretrained.exported(Path("some/cruse-62k.ckpt")) is None
    with pytest.raises(ValueError, match="nor a model in the box .*cruse-62k"):
        pretrained.find("cruse-1M")
    assert pretrained.located("cruse-62k") == pretrained.find("cruse-62k")
    assert pretrained.located("cruse-1M") == Path("cruse-1M")


def test_a_file_of_the_users_wins_over_a_model_in_the_box(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cruse-62k").write_bytes(b"mine")
    assert pretrained.find("cruse-62k") == pretrained.located("cruse-62k") == Path("cruse-62k")


def test_whatever_takes_a_checkpoint_takes_a_name_of_the_box(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    by_file = load_model(pretrained.find("cruse-30k")).state_dict()
    by_name = kdse.load_student("cruse-30k").state_dict()
    assert all(torch.equal(by_name[key], value) for key, value in by_file.items())
    found = labelled(["small=cruse-30k", "cruse-62k"], init=[])
    assert {label: named.path for label, named in found.items()} == {
        "small": pretrained.find("cruse-30k"), "cruse-62k": pretrained.find("cruse-62k")
    }  # fmt: skip
    assert main(["taps", "cruse-30k"]) == 0 and "bottleneck" in capsys.readouterr().out
    for command in (["taps", "cruse-1M.ckpt"], ["evaluate", "cruse-1M", "--synthetic", "--out", "s", "--workers", "0"]):
        assert main(command) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_teacher_is_named_and_an_unknown_one_is_refused_with_the_names_there_are():
    distiller = Distiller(teacher_checkpoint="cruse-62k", compression=4)
    assert count_parameters(distiller.teacher) == 62313
    assert count_parameters(distiller.student) == pytest.approx(62313 / 4, rel=0.05)
    with pytest.raises(ValueError, match=r"cruse-1M: neither .* in the box \(cruse-30k, cruse-62k\)"):
        Distiller(teacher_checkpoint="cruse-1M", compression=4)


def test_every_training_recording_is_credited():
    corpus = os.environ.get("KDSE_CORPUS")
    if not corpus:
        pytest.skip("KDSE_CORPUS names no folder of real recordings")
    with open(Path(corpus) / "manifest.csv", newline="") as file:
        used = {(r["source_repo"], r["source_path"]) for r in csv.DictReader(file) if r["split"] == "train"}
    with open(pretrained.FOLDER / "SOURCES.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["source_repo"], r["source_path"]) for r in rows} == used and f"{len(rows)} recordings" in CARD
    assert all(row["licence"] and row["source_commit"] for row in rows)
