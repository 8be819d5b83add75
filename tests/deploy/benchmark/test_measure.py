"""Benchmark: the runners run the model they name, and the figures follow from the times."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

import kdse.pretrained
from kdse.deploy.benchmark.measure import _summary, measure, weight_bytes
from kdse.deploy.benchmark.runners import open_runner, rnnoise_runner
from kdse.deploy.export.write import export_file
from kdse.models.checkpoint import load_model
from kdse.models.probe_speech import speech_like, with_noise

pytestmark = pytest.mark.integration

needs_rnnoise = pytest.mark.skipif(not importlib.util.find_spec("pyrnnoise"), reason="pyrnnoise is not installed")


@pytest.fixture(scope="module")
def checkpoint():
    return kdse.pretrained.find("cruse-30k")


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "student.onnx"
    export_file(load_model(checkpoint), path)
    return path


@pytest.fixture(scope="module")
def audio():
    return with_noise(speech_like(16000, 0.5))[0].numpy()


def test_torch_and_onnx_runners_give_the_models_own_output(checkpoint, exported, audio):
    model = load_model(checkpoint)
    hops = audio[: len(audio) // 256 * 256].reshape(-1, 256)
    state, expected = model.initial_state(1), []
    with torch.no_grad():
        for hop in hops:
            out, state = model.step(torch.from_numpy(hop)[None], state)
            expected.append(out[0].numpy())
    for source in (checkpoint, exported):
        runner = open_runner(str(source), threads=1)
        assert (runner.sample_rate_hz, runner.hop_samples, runner.latency_samples) == (16000, 256, 512)
        np.testing.assert_allclose([runner.process(hop) for hop in hops], expected, atol=1e-6)


def test_the_process_that_times_a_graph_never_loads_torch(exported, audio, tmp_path):
    np.save(tmp_path / "audio.npy", audio)
    code = (
        "import sys; from kdse.deploy.benchmark.worker import run; "
        f"report = run({str(exported)!r}, {str(tmp_path / 'audio.npy')!r}, 1); "
        "print(len(report['seconds']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(audio) // 256), "False"]


def test_the_figures_follow_from_the_times():
    report = {
        "hop_samples": 160, "sample_rate_hz": 16000, "latency_samples": 320, "runtime": "r",
        "load_seconds": 1.0, "peak_bytes": 7, "python_bytes": 3, "finite": True,
    }  # fmt: skip
    first = np.linspace(0.001, 0.002, 100)
    rounds = [first, first * 3, first * 2]
    other = {**report, "load_seconds": 0.5, "peak_bytes": 9, "python_bytes": 2}
    reports = [{**told, "seconds": times} for told, times in zip([report, other, report], rounds, strict=True)]
    got = _summary("x", "rnnoise", reports)
    everything = np.concatenate(rounds) * 1000
    assert got.median_ms == pytest.approx(np.sort(everything)[149:151].mean())
    assert got.worst_ms == pytest.approx(6.0) and got.median_ms < got.p99_ms < got.worst_ms
    assert got.real_time_factor == pytest.approx(0.0015 * 2 / 0.010)
    assert (got.fastest, got.slowest) == pytest.approx((0.15, 0.45))
    assert (got.hop_ms, got.latency_ms, got.hops) == (10, 20, 300)
    assert (got.load_seconds, got.peak_bytes, got.python_bytes) == (0.5, 9, 2)
    assert got.file_bytes is None and got.weight_bytes is None


def test_weight_bytes_of_a_checkpoint_are_four_a_parameter(checkpoint):
    assert weight_bytes(checkpoint) == 4 * 30101


def test_systems_are_measured_in_turns_and_each_hears_the_audio_every_round(checkpoint, exported, audio):
    told = []
    rows = measure({"torch": str(checkpoint), "onnx": str(exported)}, audio, 16000, rounds=2, tell=told.append)
    assert [line.split(": ")[1] for line in told] == ["torch", "onnx", "torch", "onnx"]
    assert [row.hops for row in rows] == [2 * (len(audio) // 256)] * 2
    for row in rows:
        assert 0 < row.median_ms <= row.p99_ms <= row.worst_ms and row.fastest <= row.real_time_factor <= row.slowest
        assert row.peak_bytes > row.python_bytes > 1e6 and row.file_bytes > row.weight_bytes > 4 * 30000
    assert rows[0].peak_bytes > rows[1].peak_bytes  # torch against ONNX Runtime alone


def test_audio_of_another_rate_is_resampled_for_each_system(exported, audio):
    twice = np.repeat(audio, 3)
    (row,) = measure({"onnx": str(exported)}, twice, 48000, rounds=1)
    assert row.hops == len(audio) // 256


def test_a_system_that_returns_nan_is_refused(exported):
    poison = np.zeros(16000, np.float32)
    poison[9000] = np.nan
    with pytest.raises(ValueError, match="onnx: returned NaN or infinite samples"):
        measure({"onnx": str(exported)}, poison, 16000, rounds=1)


def test_what_cannot_be_timed_is_named(tmp_path, exported):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ValueError, match="broken.onnx"):
        open_runner(str(tmp_path / "broken.onnx"), 1)
    with pytest.raises(ValueError, match="shorter than one of its hops"):
        measure({"onnx": str(exported)}, np.zeros(100, np.float32), 16000, rounds=1)


@needs_rnnoise
def test_rnnoise_denoises_and_lags_as_stated():
    from scipy.signal import correlate, resample_poly

    clean = resample_poly(speech_like(16000, 4.0)[0].numpy(), 3, 1).astype(np.float32)
    runner = rnnoise_runner()
    hops = clean[: len(clean) // 480 * 480].reshape(-1, 480)
    out = np.concatenate([runner.process(hop) for hop in hops])
    lag = int(correlate(out, clean[: len(out)], method="fft").argmax()) - len(out) + 1
    assert abs(lag + runner.hop_samples - runner.latency_samples) <= 2
    noise = np.random.default_rng(0).normal(0, 0.02, 48000 * 3).astype(np.float32)
    out = np.concatenate([runner.process(hop) for hop in noise.reshape(-1, 480)])
    assert out[48000:].std() < 0.2 * noise.std()
