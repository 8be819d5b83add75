"""A long stream stays what it is: no drift from float64, no growing memory, no odd sample.

"No drift" is shown three ways. A float64 copy of the model, fed the same hour hop by hop, must agree in the last
minute as it does in the first. The running sums must equal the copy's to float32's rounding of the features, and
their count exactly. And as one segment repeats, cumulative statistics settle: one period must differ from the one
before ever less, while a drift would keep them apart.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from kdse.models import Cruse, SpeechModel
from kdse.models.checkpoint import load_model
from kdse.models.probe_speech import speech_like
from kdse.models.streaming import Streamer
from kdse.pretrained import DEFAULT, find

RATE, HOP = 16000, 256
PERIOD = 625 * HOP  # 10 s, whole hops


def segment() -> Tensor:
    """Probe speech in noise ``[1, 160000]``, which repeats."""
    speech = speech_like(RATE, 10.0)
    return speech + 0.02 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))


def in_float64(model: SpeechModel) -> SpeechModel:
    assert isinstance(model, Cruse)
    return copy.deepcopy(model).double()


class Copy:
    """A float64 model, hop by hop, with its delay taken out."""

    def __init__(self, model: SpeechModel) -> None:
        self.model = in_float64(model)
        self.state = {name: value.double() for name, value in model.initial_state(1).items()}

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        out = []
        for hop in samples.double().split(HOP, dim=1):
            y, self.state = self.model.step(hop, self.state)
            out.append(y)
        return torch.cat(out, dim=1)


def resident_mb() -> float:
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("needs /proc to measure memory")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_the_copy_in_float64_is_the_same_model():
    model, wave = load_model(find(DEFAULT)), segment()[:, : 40 * HOP]
    with torch.no_grad():
        offline = in_float64(model)(wave.double()).waveform
    torch.testing.assert_close(Copy(model).push(wave)[:, HOP:], offline[:, :-HOP], atol=1e-7, rtol=0)


@pytest.mark.integration
def test_forty_seconds_end_as_float64_would_have_it():
    model, wave = load_model(find(DEFAULT)), segment().repeat(1, 4)
    streamer = Streamer(model)
    streamed = torch.cat([streamer.push(part) for part in wave.split(7001, dim=1)] + [streamer.flush()], dim=1)
    with torch.no_grad():
        exact = in_float64(model)(wave.double()).waveform
    assert torch.isfinite(streamed).all()
    torch.testing.assert_close(streamed[:, -PERIOD:].double(), exact[:, -PERIOD:], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_hour_does_not_drift_grow_or_break():
    model, wave, periods = load_model(find(DEFAULT)), segment(), 360
    streamer, exact = Streamer(model), Copy(model)
    before, change, error, memory = torch.zeros(1, PERIOD), [], [], []
    for period in range(periods):
        parts = [streamer.push(part) for part in wave.split(5003, dim=1)]
        now = torch.cat(parts, dim=1)[:, -(PERIOD - HOP) :]  # the same 9.98 s of every period
        truth = exact.push(wave)[:, HOP:]
        assert torch.isfinite(now).all(), f"period {period}"
        error.append(float((now.double() - truth).abs().max()))
        change.append(float((now - before[:, : now.shape[1]]).abs().max()))
        memory.append(resident_mb())
        before = now
    print(f"error first {error[:6]} last {error[-6:]}; change {change[1:9]} {change[-3:]}")
    print(f"memory {memory[5]:.1f} -> {memory[-1]:.1f} MB")
    assert max(error) < 1e-5, "streaming departs from float64"
    assert max(error[-6:]) < 5 * max(error[:6]), "the difference from float64 grows"
    assert max(change[-10:]) < min(change[6:9]) / 50, "repeating a signal does not settle"
    assert memory[-1] - memory[5] < 20
    frames = periods * PERIOD // HOP
    for name, sums in streamer._state.items():
        if name.endswith(".sums"):
            torch.testing.assert_close(sums[:, :2], exact.state[name][:, :2], rtol=1e-5, atol=1e-5 * float(sums[0, 2]))
            assert sums[0, 2] % frames == 0 and sums[0, 2] == exact.state[name][0, 2]


MEASURE = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from kdse.models.checkpoint import load_model
from kdse.deploy.files import enhance_file
from kdse.pretrained import find
enhance_file(load_model(find(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), mix=0.1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thirty_minutes_take_no_more_memory_than_three(tmp_path):
    """Streamed, resampled from 44.1 kHz and mixed; the peak of the whole process."""
    peaks = {}
    for minutes in (3, 30):
        source = tmp_path / f"{minutes}.flac"
        wave = 0.05 * np.random.default_rng(0).standard_normal(44100)
        with soundfile.SoundFile(source, "w", 44100, 1, "PCM_16") as writer:
            for _ in range(60 * minutes):
                writer.write(wave)
        command = [sys.executable, "-c", MEASURE, DEFAULT, str(source), str(tmp_path / f"{minutes}-out.flac")]
        peaks[minutes] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert soundfile.info(tmp_path / f"{minutes}-out.flac").frames == 60 * minutes * 44100
    print(f"peak memory {peaks} MB")
    assert peaks[30] - peaks[3] < 10
