"""Whatever samples come: finite output of the same length or a ValueError, and nothing of it stays afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdse.commands.model import to_onnx
from kdse.deploy.pcm import Pcm
from kdse.models import SpeechModel
from kdse.models.checkpoint import load_model
from kdse.models.streaming import LARGEST, Streamer
from kdse.pretrained import DEFAULT, find
from tests.deploy.test_pcm import run

CASES = 500
BATCHES = 10


def quiet(rng: np.random.Generator, n: int) -> np.ndarray:
    return 0.05 * rng.standard_normal(n)


def spoil(rng: np.random.Generator, n: int) -> np.ndarray:
    wave = quiet(rng, n)
    wave[rng.integers(0, n, size=rng.integers(1, 4))] = rng.choice([np.nan, np.inf, -np.inf, 1e6 + 1, 3e38])
    return wave


def impulse(rng: np.random.Generator, n: int) -> np.ndarray:
    wave = np.zeros(n)
    wave[rng.integers(n)] = rng.choice([1, -1, 1e-20, 1e5])
    return wave


def late_burst(rng: np.random.Generator, n: int) -> np.ndarray:
    return quiet(rng, n) * 20 * (np.arange(n) > n * rng.random())


KINDS = {
    "noise": quiet,
    "spoiled": spoil,
    "impulse": impulse,
    "burst": late_burst,
    "silence": lambda rng, n: np.zeros(n) * rng.choice([1, -1]),
    "denormals": lambda rng, n: rng.standard_normal(n) * 1e-41,
    "tiny": lambda rng, n: rng.standard_normal(n) * 1e-30,
    "clipped": lambda rng, n: np.clip(100 * rng.standard_normal(n), -1, 1),
    "dc": lambda rng, n: np.full(n, rng.choice([1e-3, 1, -1, 1e6])),
    "nyquist": lambda rng, n: rng.choice([1, 1e-6, 1e6]) * (-1.0) ** np.arange(n),
    "steps": lambda rng, n: np.round(rng.standard_normal(n) * rng.choice([1, 3000, 32767 / 4])),
    "huge": lambda rng, n: rng.standard_normal(n) * 10.0 ** rng.uniform(3, 30),
}


@pytest.fixture(scope="module", params=["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def model(request) -> SpeechModel:
    student = load_model(find(DEFAULT))
    if request.param == "torch":
        return student
    pytest.importorskip("onnxruntime")
    return to_onnx(student, find(DEFAULT))


def fed(streamer: Streamer, wave: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    out, start = [], 0
    while start < wave.shape[1]:
        size = int(rng.choice([1, 100, 256, 1000, 5000]))
        out.append(streamer.push(wave[:, start : start + size]))
        start += size
    return torch.cat([*out, streamer.flush()], dim=1)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_output_is_finite_and_as_long_or_the_fault_is_named_and_the_next_signal_is_as_ever(model, batch):
    probe = torch.from_numpy(quiet(np.random.default_rng(7), 400)).float()[None]
    with torch.no_grad():
        expected = model(probe).waveform
    streamer, kinds = Streamer(model), sorted(KINDS)
    for seed in range(batch, CASES, BATCHES):
        rng = np.random.default_rng(seed)
        samples = int(20_000 * rng.random() ** 12)  # most are short, so that 500 take seconds
        kind = kinds[seed % len(kinds)]
        wave = KINDS[kind](rng, samples) if samples else np.zeros(0)
        with np.errstate(over="ignore"):
            signal = torch.from_numpy(wave.astype(np.float32))[None]
        fit = bool((signal.abs() <= LARGEST).all())
        try:
            out = fed(streamer, signal, rng)
            assert fit and out.shape == signal.shape and torch.isfinite(out).all(), (seed, kind)
        except ValueError as error:
            assert not fit and ("NaN or infinite" in str(error) or "larger than" in str(error)), (seed, kind)
            streamer.reset()
        again = torch.cat([streamer.push(probe), streamer.flush()], dim=1)
        assert (again - expected).abs().max() < 3e-6, (seed, kind)


def test_a_refused_piece_leaves_the_signal_before_it_going_on(model):
    torch.manual_seed(0)
    wave, streamer = 0.1 * torch.randn(1, 3000), Streamer(model)
    with torch.no_grad():
        expected = model(wave).waveform
    out = [streamer.push(wave[:, :1500])]
    for bad in (float("nan"), 1e20):
        with pytest.raises(ValueError, match="sample 1500"):
            streamer.push(torch.full((1, 400), bad))
    out += [streamer.push(wave[:, 1500:]), streamer.flush()]
    torch.testing.assert_close(torch.cat(out, dim=1), expected, atol=3e-6, rtol=0)


def test_16_bit_integers_that_were_not_scaled_pass(model):
    wave = torch.randint(-32768, 32768, (1, 4000), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        offline = model(wave).waveform
    streamer = Streamer(model)
    out = torch.cat([streamer.push(wave), streamer.flush()], dim=1)
    torch.testing.assert_close(out, offline, atol=0.5, rtol=0)  # half a step of such integers


@pytest.mark.parametrize("sample_format", ["f32le", "s16le"])
@pytest.mark.parametrize("seed", range(10))
def test_random_bytes_are_enhanced_or_refused_and_never_become_nan(model, sample_format, seed):
    rng = np.random.default_rng(seed)
    raw, pcm = rng.bytes(int(rng.integers(0, 9000))), Pcm(sample_format, int(rng.choice([8000, 16000])), 1 + seed % 2)
    out, done = run(model, raw, pcm, 1 + int(rng.integers(5000)))
    if isinstance(done, Exception):
        assert isinstance(done, ValueError) and sample_format == "f32le" and "the input holds" in str(done)
        assert len(out) < len(raw)
    else:
        assert len(out) == len(raw) // pcm.frame_bytes * pcm.frame_bytes
    assert torch.isfinite(pcm.decode(out)).all()
