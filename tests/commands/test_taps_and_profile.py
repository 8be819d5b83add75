"""`kdse taps` and `kdse profile` say what a model is, in text and in JSON, and name mistakes."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from kdse.cli import main
from kdse.models import Cruse
from kdse.models.checkpoint import describe

TINY = ["kdse.models.Cruse", "--init", "channels=[4,8,16,24]"]
WRAPPED = ["kdse.models.Wrapped", "--init"]
MISFIT = [*WRAPPED, "class_path=torch.nn.Linear", "--init", "init_args={in_features: 3, out_features: 3}"]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Identity()

    def forward(self, wave: Tensor) -> Tensor:
        return self.gain(self.gain(wave))


def test_taps_are_listed_with_path_layout_and_shape(capsys):
    assert main(["taps", *TINY, "--json"]) == 0
    taps = json.loads(capsys.readouterr().out)["taps"]
    assert [t["name"] for t in taps][:5] == ["encoder0", "encoder1", "encoder2", "encoder3", "bottleneck"]
    first = taps[0]
    assert first["path"] == "encoder.0" and first["shape"] == [1, 4, 64, 40] and first["group"] == "encoder"
    assert main(["taps", *TINY]) == 0
    assert "encoder.0" in (text := capsys.readouterr().out) and "[1, 4, 64, 40]" in text


def test_every_module_can_be_listed_and_a_tap_of_ones_own_tried(capsys):
    assert main(["taps", *TINY, "--all", "--json"]) == 0
    paths = [m["path"] for m in json.loads(capsys.readouterr().out)["modules"]]
    assert "bottleneck.grus.0" in paths
    assert main(["taps", *TINY, "--tap", "gru={path: bottleneck.grus.0, layout: b t c}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["taps"][0]["shape"] == [1, 30, 64, 1]


def test_a_module_that_cannot_be_tapped_shows_why(capsys):
    twice = [*WRAPPED, f"class_path={__name__}.Twice"]
    assert main(["taps", *twice]) == 0 and "declares no taps" in capsys.readouterr().out
    assert main(["taps", *twice, "--all", "--json"]) == 0
    modules = {m["path"]: m["output"] for m in json.loads(capsys.readouterr().out)["modules"]}
    assert modules == {"module": "[1, 16000]", "module.gain": "[1, 16000] (last of 2 calls)"}


def test_a_checkpoint_is_described_without_its_config(tmp_path, capsys):
    model = Cruse(channels=[4, 8, 16, 24])
    path = tmp_path / "student.ckpt"
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}, path)
    assert main(["taps", str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["taps"]) == 9
    assert main(["profile", str(path), "--no-timing", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters_total"] == 30_101
    path.write_bytes(path.read_bytes()[:5000])
    for command in ("taps", "profile"):
        assert main([command, str(path)]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and "student.ckpt" in lines[0] and "cut short" in lines[0]


def test_a_profile_names_parameters_macs_latency_and_real_time_factor(capsys):
    assert main(["profile", *TINY, "--json", "--runs", "1", "--seconds", "0.5"]) == 0
    profile = json.loads(capsys.readouterr().out)
    assert profile["parameters_trainable"] == profile["parameters_total"] == 30_101
    assert profile["latency_ms"] == 32.0 and profile["lookahead_samples"] == 511 and profile["threads"] == 1
    assert profile["macs_per_second"] > 0 and profile["operators_not_counted"] and profile["real_time_factor"] > 0
    assert main(["profile", *TINY, "--no-timing"]) == 0
    text = capsys.readouterr().out
    assert "30,101" in text and "32.0 ms" in text and "not counted" in text and "real-time factor" not in text


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["taps", "kdse.models.Cruise"], "Cruse"),
        (["taps", "gone.ckpt"], "gone.ckpt"),
        (["taps", "kdse.models.Cruse", "--init", "width=3"], "channels"),
        (["taps", "kdse.models.Cruse", "--init", "channels=[1]"], "channels"),
        (["taps", *TINY, "--tap", "x=encoder.9"], "encoder"),
        (["taps", *TINY, "--tap", "x={path: encoder.0, layout: b q}"], "layout"),
        (["taps", *TINY, "--tap", "encoder.0"], "--tap"),
        (["taps", *TINY, "--tap", "x={path"], "--tap"),
        (["taps", *TINY, "--all", "--tap", "x=encoder.0"], "--all"),
        (["taps", *TINY, "--seconds", "inf"], "--seconds"),
        (["taps"], "MODEL"),
        (["taps", ""], "MODEL"),
        (["taps", "kdse.models.Cruse", "--init", "gru_groups=0"], "--init"),
        (["taps", "kdse.models.Cruse", "--init", "compression=x"], "check its arguments"),
        (["taps", "kdse.models.Cruse", "--init", "channels"], "NAME=VALUE"),
        (["taps", "torch.nn.Linear"], "Wrapped"),
        (["taps", "not_installed.Model"], "No module named 'not_installed'"),
        (["taps", *MISFIT, "--all"], "cannot be multiplied"),
        (["profile", *MISFIT], "cannot be multiplied"),
        (["profile", "kdse.models.Cruse", "--seconds", "0"], "--seconds"),
        (["profile", "kdse.models.Cruse", "--seconds", "nan"], "--seconds"),
        (["profile", "kdse.models.Cruse", "--runs", "0"], "--runs"),
        (["profile", "os.path.join"], "os.path.join"),
    ],
    ids=lambda v: " ".join(v[-2:]) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, named, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]
