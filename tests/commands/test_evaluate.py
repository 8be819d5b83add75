"""`kdse evaluate` scores every system and the noisy input on the same items, and never hides a failure."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kdse.cli import main
from kdse.evaluation.journal import FILE
from kdse.losses import si_sdr
from kdse.models import Cruse
from kdse.models.checkpoint import describe

pytestmark = pytest.mark.integration

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
        (["--corpus", "/nowhere"], "--corpus /nowhere"),
        (["--synthetic", "--snr-definition", "loud"], "--snr-definition loud: use one of"),
        (["--synthetic", "--items", "0"], "--items"),
        (["--synthetic", "--range", "5", "-5"], "--range"),
        (["--enhanced", "x=/nowhere", "--synthetic"], "--enhanced"),
        (["--synthetic", "--device", "abacus"], "--device"),
        (["--synthetic", "--device", "meta"], "--device"),
        (["--synthetic", "--seconds", "nan"], "--seconds"),
        (["--synthetic", "--snr-db", "nan"], "--snr-db"),
        (["--synthetic", "--max-failed-share", "nan"], "--max-failed-share"),
        (["--paired", "/nowhere", "/nowhere", "--items", "5"], "--items: does not apply to --paired"),
        (["--data-config", "/nowhere.yaml", "--sample-rate-hz", "48000"], "does not apply to --data-config"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(flags, named, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    monkeypatch.setenv("KDSE_CACHE", str(tmp_path))
    assert main(["evaluate", *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and named in error[0]


def journal_lines(out: Path) -> list[str]:
    return (out / FILE).read_text().splitlines()[1:]


def test_a_killed_evaluation_goes_on_where_it_was_and_ends_with_the_same_bytes(pairs, checkpoint, tmp_path):
    for index in range(30):
        for folder in ("noisy", "clean"):
            (tmp_path / folder).mkdir(exist_ok=True)
            wave, _ = soundfile.read(pairs / folder / f"p{index % 3}.wav")
            soundfile.write(tmp_path / folder / f"f{index}.wav", wave[index:], RATE, subtype="FLOAT")
    flags = ["--paired", str(tmp_path / "noisy"), str(tmp_path / "clean"), "--metrics", "pesq_wb", "estoi", "--no-cost"]
    command = [sys.executable, "-m", "kdse.cli", "evaluate", str(checkpoint), *flags, "--workers", "1", "--out"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    subprocess.run([*command, str(undisturbed)], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (killed / FILE).exists() or len(journal_lines(killed)) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = journal_lines(killed)
    assert 5 <= len(before) < 60
    again = subprocess.run([*command, str(killed)], check=True, capture_output=True, text=True)
    assert f"{len([line for line in before if line.endswith('}')])} scores" in again.stderr
    assert journal_lines(killed)[: len(before) - 1] == before[:-1]  # kept, not computed again
    assert len(journal_lines(killed)) == 60
    assert (killed / "per_file.csv").read_bytes() == (undisturbed / "per_file.csv").read_bytes()
    assert (killed / "summary.csv").read_bytes() == (undisturbed / "summary.csv").read_bytes()


def test_more_systems_cost_only_themselves_and_a_retrained_one_is_scored_again(pairs, checkpoint, tmp_path):
    common = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "--workers", "0"]
    out = tmp_path / "out"
    flags = [*common, "--no-cost", "--out", str(out)]
    assert main(["evaluate", f"tiny={checkpoint}", *flags]) == 0
    assert len(journal_lines(out)) == 6
    assert main(["evaluate", f"tiny={checkpoint}", "--enhanced", f"oracle={pairs / 'oracle'}", *flags]) == 0
    assert len(journal_lines(out)) == 9
    torch.manual_seed(1)
    model = Cruse(channels=[2, 4, 6, 8])
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}, other)
    assert main(["evaluate", f"tiny={other}", *flags]) == 0
    assert len(journal_lines(out)) == 12
    assert main(["evaluate", f"tiny={other}", *common, "--no-cost", "--out", str(tmp_path / "fresh")]) == 0
    assert (out / "per_file.csv").read_bytes() == (tmp_path / "fresh" / "per_file.csv").read_bytes()


def test_other_metrics_in_the_same_folder_are_refused_unless_it_may_be_overwritten(pairs, tmp_path, capsys):
    flags = [
        "evaluate",
        "--paired",
        str(pairs / "noisy"),
        str(pairs / "clean"),
        "--workers",
        "0",
        "--out",
        str(tmp_path),
    ]
    assert main([*flags, "--metrics", "si_sdr"]) == 0
    kept = (tmp_path / "per_file.csv").read_bytes()
    assert main([*flags, "--metrics", "stoi"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert "metrics" in error[-1] and "--overwrite" in error[-1] and (tmp_path / "per_file.csv").read_bytes() == kept
    assert main([*flags, "--metrics", "stoi", "--overwrite"]) == 0
    assert "stoi" in (tmp_path / "per_file.csv").read_text()


def test_changed_audio_under_an_old_name_is_scored_again(pairs, tmp_path):
    for folder in ("noisy", "clean"):
        (tmp_path / folder).mkdir()
        for index in range(2):
            wave, _ = soundfile.read(pairs / folder / f"p{index}.wav")
            soundfile.write(tmp_path / folder / f"p{index}.wav", wave, RATE, subtype="FLOAT")
    flags = ["evaluate", "--paired", str(tmp_path / "noisy"), str(tmp_path / "clean"), "--metrics", "si_sdr",
             "--workers", "0", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(flags) == 0
    before = {row["name"]: row["si_sdr"] for row in rows(tmp_path / "out" / "per_file.csv")}
    noisy, clean = (soundfile.read(pairs / folder / "p1.wav")[0] for folder in ("noisy", "clean"))
    soundfile.write(tmp_path / "noisy" / "p1.wav", clean + 10 * (noisy - clean), RATE, subtype="FLOAT")
    assert main(flags) == 0
    after = {row["name"]: row["si_sdr"] for row in rows(tmp_path / "out" / "per_file.csv")}
    assert after["p0"] == before["p0"] and float(after["p1"]) == pytest.approx(float(before["p1"]) - 20, abs=0.2)


def test_an_onnx_file_scores_as_the_network_it_holds(pairs, tmp_path):
    pytest.importorskip("onnx")
    from tests.models.test_onnx import TAPS, graph

    path = graph(tmp_path, ["b", "n"], name="fir.onnx")
    (tmp_path / "fir").mkdir()
    for file in (pairs / "noisy").iterdir():
        wave, _ = soundfile.read(file)
        soundfile.write(tmp_path / "fir" / file.name, np.convolve(wave, TAPS)[: wave.size], RATE, subtype="FLOAT")
    flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "--workers", "0"]
    flags += ["--enhanced", f"by_hand={tmp_path / 'fir'}", "--out", str(tmp_path / "out")]
    assert main(["evaluate", f"net={path}", *flags]) == 0
    found = {(row["system"], row["name"]): float(row["si_sdr"]) for row in rows(tmp_path / "out" / "per_file.csv")}
    for index in range(3):
        assert found["net", f"p{index}"] == pytest.approx(found["by_hand", f"p{index}"], abs=1e-3)
    cost = json.loads((tmp_path / "out" / "summary.json").read_text())["systems"]["net"]["cost"]
    assert cost["model_bytes"] == Path(path).stat().st_size and cost["real_time_factor"] > 0


def test_cost_stands_beside_quality(pairs, checkpoint, tmp_path):
    flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "--workers", "0"]
    assert main(["evaluate", f"tiny={checkpoint}", *flags, "--out", str(tmp_path)]) == 0
    cost = json.loads((tmp_path / "summary.json").read_text())["systems"]["tiny"]["cost"]
    model = Cruse(channels=[2, 4, 6, 8])
    assert cost["parameters"] == sum(p.numel() for p in model.parameters())
    assert cost["latency_ms"] == 32.0 and cost["threads"] == 1 and cost["macs_per_second"] > 0
    assert cost["model_bytes"] == sum(t.numel() * t.element_size() for t in model.state_dict().values())


def test_a_public_test_set_with_other_noisy_scores_is_a_loud_warning(tmp_path, capsys):
    folder = tmp_path / "no_reverb"
    for name in ("noisy", "clean"):
        (folder / name).mkdir(parents=True)
    clean = speech_like(0, 0.5)
    noise = np.random.default_rng(0).standard_normal(clean.size)
    for index in range(150):
        soundfile.write(folder / "clean" / f"clean_fileid_{index}.wav", clean, RATE)
        soundfile.write(folder / "noisy" / f"clnsp1_x_snr5_tl-20_fileid_{index}.wav", clean + 0.05 * noise, RATE)
    flags = ["--paired", str(folder / "noisy"), str(folder / "clean"), "--metrics", "si_sdr", "--workers", "0"]
    assert main(["evaluate", *flags, "--out", str(tmp_path / "out")]) == 0
    assert "WARNING: DNS-2020 synthetic test set without reverb" in capsys.readouterr().err
    assert "**WARNING" in (tmp_path / "out" / "summary.md").read_text()
    (warning,) = json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"]
    assert "9.07" in warning


def test_enhanced_files_may_lack_the_last_hop_but_not_more(pairs, tmp_path):
    for name, missing in (("hop", 256), ("more", 1000)):
        (tmp_path / name).mkdir()
        for file in (pairs / "clean").iterdir():
            wave, _ = soundfile.read(file)
            soundfile.write(tmp_path / name / file.name, wave[:-missing], RATE, subtype="FLOAT")
    flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "--workers", "0"]
    flags += ["--enhanced", f"hop={tmp_path / 'hop'}", "--enhanced", f"more={tmp_path / 'more'}"]
    assert main(["evaluate", *flags, "--max-failed-share", "1", "--out", str(tmp_path / "out")]) == 0
    found = rows(tmp_path / "out" / "per_file.csv")
    assert all(float(row["si_sdr"]) > 10 for row in found if row["system"] == "hop")
    assert all("samples" in row["failures"] for row in found if row["system"] == "more")


def test_a_label_that_looks_like_markup_is_only_a_label(pairs, checkpoint, tmp_path):
    flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "--workers", "0"]
    assert main(["evaluate", f"x[/kd]={checkpoint}", *flags, "--no-cost", "--out", str(tmp_path)]) == 0
    assert {row["system"] for row in rows(tmp_path / "per_file.csv")} == {"noisy", "x[/kd]"}


def test_another_version_of_what_scores_is_another_setting(pairs, tmp_path, monkeypatch, capsys):
    import kdse

    flags = [
        "evaluate",
        "--paired",
        str(pairs / "noisy"),
        str(pairs / "clean"),
        "--workers",
        "0",
        "--metrics",
        "si_sdr",
    ]
    assert main([*flags, "--out", str(tmp_path)]) == 0
    monkeypatch.setattr(kdse, "__version__", "9.9")
    assert main([*flags, "--out", str(tmp_path)]) == 2 and "packages" in capsys.readouterr().err


def test_audio_that_cannot_be_written_is_one_line(pairs, tmp_path, capsys):
    (tmp_path / "audio").write_text("in the way")
    flags = ["--paired", str(pairs / "noisy"), str(pairs / "clean"), "--metrics", "si_sdr", "--workers", "0"]
    assert main(["evaluate", *flags, "--save-audio", "1", "--out", str(tmp_path)]) == 2
    assert "--save-audio" in capsys.readouterr().err.strip().splitlines()[-1]
