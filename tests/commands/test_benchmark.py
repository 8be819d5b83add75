"""`kdse benchmark` times what it says and explains what it cannot."""

from __future__ import annotations

import json

import pytest
import soundfile
import torch

import kdse.pretrained
from kdse.cli import main
from kdse.deploy.export.write import export_file
from kdse.models.checkpoint import load_model

pytestmark = pytest.mark.integration

FAST = ["--seconds", "0.5", "--rounds", "1", "--no-rnnoise"]


def test_a_checkpoint_is_timed_in_torch_onnx_and_int8_on_the_users_audio(tmp_path, capsys):
    soundfile.write(tmp_path / "noisy.wav", torch.randn(8000, 2).mul(0.05).numpy(), 16000)
    out = tmp_path / "figures" / "speed.json"
    code = main(["benchmark", "cruse-30k", "--audio", str(tmp_path / "noisy.wav"), *FAST, "--json", "--out", str(out)])
    assert code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    labels = [row["label"] for row in printed["systems"]]
    assert labels == ["cruse-30k torch", "cruse-30k ONNX", "cruse-30k int8"]
    floats, small = printed["systems"][1:]
    assert small["weight_bytes"] < 0.6 * floats["weight_bytes"]
    assert printed["audio_seconds"] == 0.5 and printed["threads"] == 1 and printed["machine"]


def test_an_exported_file_is_timed_as_it_is_and_the_table_names_the_machine(tmp_path, capsys):
    export_file(load_model(kdse.pretrained.find("cruse-30k")), tmp_path / "mine.onnx")
    assert main(["benchmark", str(tmp_path / "mine.onnx"), *FAST]) == 0
    text = capsys.readouterr().out
    assert "mine.onnx" in text and "real-time factor" in text and "1 rounds, 1 thread, " in text and "cores" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nothing.ckpt"], "nothing.ckpt: no such file"),
        (["no-such-model"], "neither a checkpoint file nor a model in the box"),
        (["--rounds", "0"], "--rounds 0"),
        (["--audio", "missing.wav", "--no-rnnoise"], "--audio missing.wav"),
        (["--seconds", "-1"], "--seconds"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys):
    assert main(["benchmark", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
