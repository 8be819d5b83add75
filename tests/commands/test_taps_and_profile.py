"""`kdse taps` and `kdse profile` say what a model is, in text and in JSON, and name mistakes."""

from __future__ import annotations

import json

import pytest

from kdse.cli import main

TINY = ["kdse.models.Cruse", "--init", "channels=[4,8,16,24]"]


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
        (["profile", "kdse.models.Cruse", "--seconds", "0"], "--seconds"),
        (["profile", "os.path.join"], "os.path.join"),
    ],
    ids=lambda v: " ".join(v[-2:]) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, named, capsys):
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]
