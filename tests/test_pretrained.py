"""The students in the box are what their card says."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdse import pretrained
from kdse.checkpoint import load_model, read_checkpoint
from kdse.deploy.streaming import Streamer
from kdse.metrics.intrusive import score
from kdse.models.budget import count_parameters
from kdse.models.probe_speech import speech_like

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
