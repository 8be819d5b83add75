"""`kdse evaluate` scores every system and the noisy input on the same items, and never hides a failure."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kdse.checkpoint import describe
from kdse.cli import main
from kdse.losses import si_sdr
from kdse.models import Cruse

RATE = 16000


def speech_like(seed: int, seconds: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    envelope = np.clip(np.sin(2 * np.pi * 3 * t + seed), 0.05, 1)
    tone = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 20))
    return 0.05 * envelope * (tone + 0.1 * rng.standard_normal(t.size))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    for folder in ("noisy", "clean", "oracle"):
        (root / folder).mkdir()
    for index in range(3):
        clean = speech_like(index)
        noisy = clean + 0.03 * np.random.default_rng(100 + index).standard_normal(clean.size)
        for folder, wave in (("noisy", noisy), ("clean", clean), ("oracle", 0.9 * clean + 0.1 * noisy)):
            soundfile.write(root / folder / f"p{index}.wav", wave, RATE, subtype="FLOAT")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = Cruse(channels=[2, 4, 6, 8])
    path = tmp_path_factory.mktemp("run", numbered=False) / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}, path)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_paired_scores_are_those_of_an_independent_implementation(pairs, checkpoint, tmp_path, capsys):
    flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "stoi", "--workers", "0"]
    flags += ["--enhanced", f"oracle={pairs / 'oracle'}", "--out", str(tmp_path)]
    assert main(["evaluate", f"tiny={checkpoint}", *flags]) == 0
    per_file = rows(tmp_path / "per_file.csv")
    assert len(per_file) == 3 * 3
    for row in per_file:
        folder = {"noisy": "noisy", "oracle": "oracle"}.get(row["system"])
        if folder is None:
            continue
        name = Path(row["name"]).stem
        estimate, clean = (
            torch.from_numpy(soundfile.read(pairs / f / f"{name}.wav")[0])[None] for f in (folder, "clean")
        )
        assert float(row["si_sdr"]) == pytest.approx(si_sdr(estimate, clean).item(), abs=1e-3)
    summary = {row["system"]: row for row in rows(tmp_path / "summary.csv")}
    mean = np.mean([float(r["si_sdr"]) for r in per_file if r["system"] == "oracle"])
    base = np.mean([float(r["si_sdr"]) for r in per_file if r["system"] == "noisy"])
    assert float(summary["oracle"]["si_sdr"]) == pytest.approx(mean, abs=1e-3)
    assert float(summary["oracle"]["si_sdr_improvement"]) == pytest.approx(mean - base, abs=2e-3)
    assert "oracle" in (tmp_path / "summary.md").read_text() and "oracle" in capsys.readouterr().out


def test_results_do_not_depend_on_the_number_of_workers(pairs, checkpoint, tmp_path):
    for workers in ("0", "2"):
        flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "estoi"]
        assert main(["evaluate", str(checkpoint), *flags, "--workers", workers, "--out", str(tmp_path / workers)]) == 0
    assert (tmp_path / "0" / "per_file.csv").read_bytes() == (tmp_path / "2" / "per_file.csv").read_bytes()


def test_json_holds_settings_versions_and_every_number(pairs, checkpoint, tmp_path, capsys):
    flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "--workers", "0", "--json"]
    assert main(["evaluate", str(checkpoint), *flags, "--out", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "summary.json").read_text())
    assert report["versions"]["torch"] and report["systems"]["noisy"] and report["failures"] == []
    assert {row["system"] for row in report["table"]} == set(report["systems"])


def test_an_item_that_cannot_be_scored_is_counted_and_listed_and_too_many_end_with_exit_2(pairs, tmp_path, capsys):
    partial = tmp_path / "partial"
    partial.mkdir()
    soundfile.write(partial / "p0.wav", speech_like(0), RATE)
    flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "--workers", "0",
             "--enhanced", f"mine={partial}", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(["evaluate", *flags]) == 2
    assert "--max-failed-share" in capsys.readouterr().err
    failures = json.loads((tmp_path / "out" / "summary.json").read_text())["failures"]
    assert {f["name"].split(".")[0] for f in failures} == {"p1", "p2"} and all(f["system"] == "mine" for f in failures)
    assert main(["evaluate", *flags, "--max-failed-share", "0.7"]) == 0


def test_mixtures_are_the_same_for_every_system_and_every_call(tmp_path, checkpoint):
    for kind in ("speech", "noise"):
        (tmp_path / "corpus" / kind / "test").mkdir(parents=True)
        for index in range(2):
            wave = (
                speech_like(index, 3.0)
                if kind == "speech"
                else 0.02 * np.random.default_rng(index).standard_normal(48000)
            )
            soundfile.write(tmp_path / "corpus" / kind / "test" / f"{index}.flac", wave, RATE)
    flags = ["--corpus", str(tmp_path / "corpus"), "--snr-db", "-5", "5", "--range", "-5", "15", "--items", "2",
             "--seconds", "1", "--metrics", "si_sdr", "--workers", "0", "--save-audio", "1"]  # fmt: skip
    for name in ("a", "b"):
        assert main(["evaluate", str(checkpoint), *flags, "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a" / "per_file.csv").read_bytes() == (tmp_path / "b" / "per_file.csv").read_bytes()
    noisy = [r for r in rows(tmp_path / "a" / "per_file.csv") if r["system"] == "noisy" and r["snr_db"]]
    for row in noisy:  # noise and speech are nearly orthogonal, so SI-SDR is the SNR that was asked for
        assert float(row["si_sdr"]) == pytest.approx(float(row["snr_db"]), abs=0.5)
    assert {r["set"] for r in rows(tmp_path / "a" / "per_file.csv")} == {"", "-5..15 dB"}
    assert {p.name.rsplit("_", 1)[1] for p in (tmp_path / "a" / "audio").iterdir()} == {
        "noisy.wav",
        "clean.wav",
        "run.wav",
    }


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "no test items"),
        (["--paired", "/nowhere", "/nowhere"], "/nowhere"),
        (["/nowhere.ckpt", "--synthetic"], "/nowhere.ckpt"),
        (["--corpus", "/nowhere"], "/nowhere"),
        (["--synthetic", "--items", "0"], "--items"),
        (["--synthetic", "--range", "5", "-5"], "--range"),
        (["--enhanced", "x=/nowhere", "--synthetic"], "--enhanced"),
        (["--synthetic", "--device", "abacus"], "--device"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, named, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    monkeypatch.setenv("KDSE_CACHE", str(tmp_path))
    assert main(["evaluate", *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and named in error[0]
