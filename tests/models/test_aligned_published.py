"""Published denoisers, in plain loops over their frames, are measured for what they are and brought to clean speech."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from kdse.audio.alignment import find_delay
from kdse.audio.files import read
from kdse.deploy.benchmark.runners import rnnoise_runner
from kdse.models.aligned import Aligned
from kdse.models.base import Estimate, SpeechModel
from kdse.models.probe_speech import with_noise
from tests.data.small_corpus import real_corpus
from tests.public_teachers import folder

pytestmark = pytest.mark.integration  # (some seconds each)


def session(name: str):
    """A published graph, on one thread. Skips where it is absent."""
    ort = pytest.importorskip("onnxruntime")
    path = folder() / name
    if not path.is_file():
        pytest.skip(f"no published graph at {path}; set KDSE_TEACHERS to the folder of all of them")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options)


def call(graph, first: np.ndarray, states: list[np.ndarray]) -> list[np.ndarray]:
    """One frame and the states in, one frame and the states out; no states stand for zeros."""
    inputs = graph.get_inputs()
    states = states or [np.zeros(entry.shape, np.float32) for entry in inputs[1:]]
    return graph.run(None, dict(zip([entry.name for entry in inputs], [first, *states], strict=True)))


class Published(SpeechModel):
    """One item after the other."""

    def forward(self, noisy):
        return Estimate(torch.stack([self.enhance(row) for row in noisy]))

    def enhance(self, wave):
        raise NotImplementedError


class Spectral(Published):
    """GTCRN and UL-UNAS: frames of a centred transform, real and imaginary part."""

    def __init__(self, name: str, window: torch.Tensor) -> None:
        super().__init__()
        self.graph, self.settings = session(name), {"n_fft": 512, "hop_length": 256, "window": window}

    def enhance(self, wave):
        spectrum = torch.view_as_real(torch.stft(wave, **self.settings, return_complex=True))
        frames, states = [], []
        for frame in spectrum.split(1, dim=1):
            enhanced, *states = call(self.graph, frame[None].numpy(), states)
            frames.append(torch.from_numpy(enhanced[0]))
        return torch.istft(torch.view_as_complex(torch.cat(frames, dim=1)), **self.settings, length=len(wave))


class Dtln(Published):
    """Frames of 512 without a window, every 128: a mask on the magnitude, then a frame; overlap-added."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs = session("dtln/model_1.onnx"), session("dtln/model_2.onnx")

    def enhance(self, wave):
        heard = np.concatenate([np.zeros(384, np.float32), wave.numpy()])
        added, masks, frames = np.zeros(len(heard) + 512, np.float32), [], []
        for start in range(0, len(wave), 128):
            spectrum = np.fft.rfft(heard[start : start + 512], 512)
            mask, *masks = call(self.graphs[0], np.abs(spectrum)[None, None].astype(np.float32), masks)
            masked = np.fft.irfft(spectrum * mask[0, 0])[None, None].astype(np.float32)
            frame, *frames = call(self.graphs[1], masked, frames)
            added[start : start + 512] += frame[0, 0]
        return torch.from_numpy(added[: len(wave)])  # as a real-time user hears it, with its delay


class RnNoise(Published):
    sample_rate_hz = 48000

    def __init__(self) -> None:
        super().__init__()
        if not importlib.util.find_spec("pyrnnoise"):
            pytest.skip("pyrnnoise is not installed")

    def enhance(self, wave):
        runner = rnnoise_runner()
        padded = torch.nn.functional.pad(wave, (0, -len(wave) % runner.hop_samples))
        hops = [runner.process(hop.numpy()) for hop in padded.split(runner.hop_samples)]
        return torch.from_numpy(np.concatenate(hops))[: len(wave)]


PUBLISHED = {
    "gtcrn": (lambda: Spectral("gtcrn/gtcrn_simple.onnx", torch.hann_window(512).sqrt()), [0]),
    "ul-unas": (lambda: Spectral("ul-unas/ulunas_stream_simple.onnx", torch.hann_window(512)), [0]),
    "dtln": (Dtln, [384]),
    "rnnoise": (RnNoise, [959, 960]),  # two hops; the group delay of its high-pass turns the peak by a sample
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_denoiser_ends_in_time_with_clean_speech_and_at_its_level(name):
    build, delays = PUBLISHED[name]
    teacher = Aligned(build())
    found = teacher.measure()
    assert found.delay_samples in delays and found.correlation > 0.95
    assert 0.9 < found.gain <= 1.0  # none of them changes the level of speech by 1 dB
    folder = real_corpus() / "speech" / "valid"
    clips = [read(path, 16000, 16000, 80000) for path in sorted(folder.iterdir())[:3]]
    clean = torch.stack([10 ** (-25 / 20) * clip / clip.square().mean().sqrt() for clip in clips])
    wave = teacher(with_noise(clean, 15.0)).waveform
    assert find_delay(clean.double(), wave.double(), 400) in (-1, 0, 1)
    error_db = 10 * (wave.square().mean(1) / clean.square().mean(1)).log10()
    assert error_db.abs().max() < 1.5  # (RNNoise's was 13 dB where its gain was that of a signal it suppresses)
