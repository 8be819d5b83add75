"""`kdse enhance` keeps name, length, rate and format, equals the offline result, and never harms its inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kdse.cli import main
from kdse.models import Cruse
from kdse.models.base import UNBOUNDED
from kdse.models.checkpoint import describe, load_model


def save(model: Cruse, path: Path) -> Path:
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    return save(Cruse(channels=[2, 4, 6, 8]), tmp_path_factory.mktemp("model") / "student.ckpt")


@pytest.fixture(scope="module")
def passes_through(tmp_path_factory) -> Path:
    """A model whose mask is all ones."""
    model = Cruse(channels=[2, 4, 6, 8])
    torch.nn.init.constant_(model.decoder[3].conv.bias, 99.0)
    return save(model, tmp_path_factory.mktemp("open") / "open.ckpt")


def record(path: Path, samples: int, rate: int = 16000, channels: int = 1, subtype: str = "PCM_16") -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.random.default_rng(samples).standard_normal((samples, channels))
    soundfile.write(path, wave, rate, subtype=subtype)
    return soundfile.read(path, always_2d=True)[0]


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("samples", [1, 4001, 20011])
@pytest.mark.parametrize("channels", [1, 2])
def test_length_rate_channels_and_format_are_kept(checkpoint, tmp_path, rate, samples, channels):
    record(tmp_path / "in" / "talk.flac", samples, rate, channels)
    assert main(["enhance", str(tmp_path / "in"), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]) == 0
    before, after = (soundfile.info(tmp_path / folder / "talk.flac") for folder in ("in", "out"))
    assert (after.frames, after.samplerate, after.channels) == (samples, rate, channels)
    assert (after.format, after.subtype) == (before.format, before.subtype)


@pytest.mark.parametrize("chunk_seconds", ["0.25", "30"])
def test_a_causal_models_result_is_the_offline_one_however_long_the_file(checkpoint, tmp_path, chunk_seconds):
    wave = record(tmp_path / "talk.wav", 40003, channels=2, subtype="FLOAT")
    flags = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--chunk-seconds", chunk_seconds]
    assert main(["enhance", str(tmp_path / "talk.wav"), *flags]) == 0
    with torch.no_grad():
        expected = load_model(checkpoint)(torch.from_numpy(wave.T).float()).waveform
    enhanced = torch.from_numpy(soundfile.read(tmp_path / "out" / "talk.wav", dtype="float32")[0].T)
    torch.testing.assert_close(enhanced, expected, atol=3e-6, rtol=0)


def test_a_model_that_does_not_stream_cross_fades_and_says_that_the_result_differs(
    checkpoint, tmp_path, capsys, monkeypatch
):
    record(tmp_path / "talk.wav", 40000)
    monkeypatch.setattr(Cruse, "lookahead_samples", UNBOUNDED)
    flags = ["enhance", str(tmp_path / "talk.wav"), "--checkpoint", str(checkpoint), "--chunk-seconds", "1"]
    assert main([*flags, "--out", str(tmp_path / "faded")]) == 0
    assert "cross-faded" in (said := capsys.readouterr().out) and "--whole-file" in said
    assert main([*flags, "--whole-file", "--out", str(tmp_path / "whole")]) == 0
    assert "cross-faded" not in capsys.readouterr().out


def test_folders_keep_their_subfolders_and_names(checkpoint, tmp_path, capsys):
    for name in ("a.wav", "deep/er/b.flac"):
        record(tmp_path / "in" / name, 500)
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    flags = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--json"]
    assert main(["enhance", str(tmp_path / "in"), *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in report["files"]] == ["enhanced"] * 2
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert made == ["a.wav", "deep/er/b.flac"]


def test_existing_results_are_kept_unless_overwriting_is_asked_for(checkpoint, tmp_path):
    record(tmp_path / "talk.wav", 800)
    flags = ["enhance", str(tmp_path / "talk.wav"), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "talk.wav").write_text("mine")
    assert main(flags) == 0 and (tmp_path / "out" / "talk.wav").read_text() == "mine"
    assert main([*flags, "--overwrite"]) == 0 and soundfile.info(tmp_path / "out" / "talk.wav").frames == 800


def test_a_broken_file_is_reported_and_the_others_go_on(checkpoint, tmp_path, capsys):
    record(tmp_path / "in" / "good.wav", 700)
    (tmp_path / "in" / "bad.wav").write_bytes(b"RIFF but no audio")
    spoiled = np.full(600, np.nan, dtype=np.float32)
    soundfile.write(tmp_path / "in" / "nan.wav", spoiled, 16000, subtype="FLOAT")
    flags = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--json"]
    assert main(["enhance", str(tmp_path / "in"), *flags]) == 1
    rows = {Path(row["input"]).name: row for row in json.loads(capsys.readouterr().out)["files"]}
    assert rows["good.wav"]["status"] == "enhanced"
    assert rows["bad.wav"]["status"] == rows["nan.wav"]["status"] == "failed" and "NaN" in rows["nan.wav"]["message"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.wav"]  # nothing half written


@pytest.mark.parametrize("name", ["cut.wav", "cut.flac"])
@pytest.mark.parametrize("whole", [[], ["--whole-file"]], ids=["pieces", "whole"])
def test_a_file_that_was_cut_short_is_not_enhanced_in_part(checkpoint, tmp_path, capsys, name, whole):
    record(tmp_path / name, 200_000)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    flags = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), *whole]
    assert main(["enhance", str(tmp_path / name), *flags]) == 1
    assert "cut short" in (said := " ".join(capsys.readouterr().err.split())) and name in said
    assert not list((tmp_path / "out").glob("*"))


def test_a_model_that_returns_nan_writes_nothing_and_is_named(tmp_path, capsys):
    model = Cruse(channels=[2, 4, 6, 8])
    torch.nn.init.constant_(model.skips[0].bias, float("nan"))
    path = save(model, tmp_path / "nan.ckpt")
    record(tmp_path / "talk.wav", 800)
    flags = ["--checkpoint", str(path), "--out", str(tmp_path / "out"), "--json"]
    assert main(["enhance", str(tmp_path / "talk.wav"), *flags]) == 1
    assert "Cruse returned NaN" in json.loads(capsys.readouterr().out)["files"][0]["message"]
    assert not list((tmp_path / "out").iterdir())


def test_silence_stays_silent(checkpoint, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(5000), 44100)
    flags = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main(["enhance", str(tmp_path / "silence.wav"), *flags]) == 0
    assert not soundfile.read(tmp_path / "out" / "silence.wav")[0].any()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_results_are_aligned_with_the_input_at_any_rate(passes_through, tmp_path, rate):
    tones = 0.3 * np.sin(2 * np.pi * np.outer(np.arange(2 * rate + 7) / rate, [440, 1000]))
    soundfile.write(tmp_path / "tones.wav", tones, rate, subtype="FLOAT")
    flags = ["--checkpoint", str(passes_through), "--out", str(tmp_path / "out"), "--chunk-seconds", "1"]
    assert main(["enhance", str(tmp_path / "tones.wav"), *flags]) == 0
    enhanced = soundfile.read(tmp_path / "out" / "tones.wav")[0]
    inner = slice(rate // 50, -rate // 50)  # the resampler's edges aside
    np.testing.assert_allclose(enhanced[inner], tones[inner], atol=2e-3)


@pytest.mark.parametrize(("subtype", "clips"), [("PCM_16", True), ("FLOAT", False)])
def test_what_leaves_full_scale_is_clipped_and_counted_where_the_format_needs_it(
    passes_through, tmp_path, capsys, subtype, clips
):
    square = np.sign(np.sin(np.arange(20_000) / 9 + 0.1))  # without what is above 8 kHz it overshoots
    soundfile.write(tmp_path / "loud.wav", square, 44100, subtype=subtype)
    flags = ["--checkpoint", str(passes_through), "--out", str(tmp_path / "out")]
    assert main(["enhance", str(tmp_path / "loud.wav"), *flags, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["files"]
    wave = soundfile.read(tmp_path / "out" / "loud.wav")[0]
    assert (row["clipped_samples"] > 0) == clips and (np.abs(wave).max() <= 1) == clips
    assert np.abs(wave[1000:-1000]).mean() > 0.8  # no sample wrapped around to the other sign
    assert main(["enhance", str(tmp_path / "loud.wav"), *flags, "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert ("clipped" in said) == clips and "nothing above 8 kHz" in said


def test_running_again_over_a_folder_that_holds_its_results_enhances_nothing_twice(checkpoint, tmp_path, capsys):
    record(tmp_path / "in" / "talk.wav", 500)
    record(tmp_path / "in" / ".hidden.wav", 500)
    flags = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "in" / "enhanced"), "--json"]
    for status in ("enhanced", "skipped"):
        assert main(["enhance", str(tmp_path / "in"), *flags]) == 0
        assert [row["status"] for row in json.loads(capsys.readouterr().out)["files"]] == [status]


def test_two_inputs_of_one_name_are_refused_before_anything_is_written(checkpoint, tmp_path, capsys):
    for folder in ("a", "b"):
        record(tmp_path / folder / "talk.wav", 500)
    flags = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert main(["enhance", str(tmp_path / "a"), str(tmp_path / "b" / "talk.wav"), *flags]) == 2
    assert "both be written" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--checkpoint", "cruse-63k"], "--checkpoint"),
        (["--mix", "1.5"], "--mix"),
        (["--stream", "--whole-file"], "--stream"),
        (["--rate", "16000"], "--rate"),
        (["-", "more.wav"], "INPUT -"),
        (["--live"], "--live"),
        (["--backend", "onnx", "--device", "cuda"], "--device"),
        (["--checkpoint", "x.ckpt", "--out", "o", "--chunk-seconds", "0"], "--chunk-seconds"),
        (["--checkpoint", "x.ckpt", "--out", "o", "--chunk-seconds", "long"], "--chunk-seconds"),
        (["--checkpoint", "x.ckpt", "--out", "o", "--loud"], "--loud"),
        (["--checkpoint", "x.ckpt", "--out", "talk.wav"], "--out"),
    ],
    ids=lambda v: v if isinstance(v, str) else " ".join(v[-2:]),
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(flags, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    record(Path("talk.wav"), 300)
    assert main(["enhance", "talk.wav", *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]


@pytest.mark.parametrize("device", ["cuda:77", "nonsense"])
def test_a_device_that_is_not_there_is_named(checkpoint, tmp_path, capsys, device):
    record(tmp_path / "talk.wav", 300)
    flags = ["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--device", device]
    assert main(["enhance", str(tmp_path / "talk.wav"), *flags]) == 2
    assert f"--device {device}" in capsys.readouterr().err


@pytest.mark.parametrize("mistake", ["missing", "text", "empty", "onto itself", "corrupt checkpoint", "no checkpoint"])
def test_a_mistake_is_one_line_and_exit_code_2(mistake, checkpoint, tmp_path, capsys):
    record(tmp_path / "talk.wav", 300)
    before = (tmp_path / "talk.wav").read_bytes()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    given = {"missing": "gone.wav", "text": "notes.txt", "empty": "empty"}.get(mistake, "talk.wav")
    out = tmp_path if mistake == "onto itself" else tmp_path / "out"
    model = {"corrupt checkpoint": "bad.ckpt", "no checkpoint": "gone.ckpt"}.get(mistake)
    named = {"onto itself": "overwrite", **({mistake: model} if model else {})}.get(mistake, given)
    flags = ["--checkpoint", str(tmp_path / model) if model else str(checkpoint), "--out", str(out)]
    assert main(["enhance", str(tmp_path / given), *flags]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]
    assert (tmp_path / "talk.wav").read_bytes() == before
