"""Fixed signals to measure networks on before any data is seen: recorded speech, and a signal with traits of speech."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kdse.audio.files import read
from kdse.errors import UserError

#: Level of the clean signal and of the noise under it. Our choice: a teacher leaves such a signal nearly as it is.
LEVEL_DB = -25.0
SNR_DB = 20.0
#: 9.4 s at 16 kHz that public denoisers pass (correlation 0.93 to 1), other than `speech_like` and many voices of
#: espeak-ng: `kdse.data.synthesis.speech` read it in the voices f1 and m2, as a test states.
SPEECH = Path(__file__).with_name("probe_speech.flac")


def speech_like(sample_rate_hz: int, seconds: float) -> Tensor:
    """Voiced syllables ``[1, N]``: gliding harmonics of 90 to 180 Hz under three formants, four a second, with pauses.

    The same values on every call. The gliding pitch makes the autocorrelation peak at zero lag alone, so a delay can
    be read off it; the bursts of noise at the syllables' onsets carry the upper band.
    """
    time = torch.arange(round(seconds * sample_rate_hz), dtype=torch.float64) / sample_rate_hz
    pitch = 130 + 35 * torch.sin(2 * math.pi * 0.31 * time) + 10 * torch.sin(2 * math.pi * 1.7 * time)
    phase = 2 * math.pi * torch.cumsum(pitch, 0) / sample_rate_hz
    formants = [
        (600 + 200 * torch.sin(2 * math.pi * 0.9 * time), 120.0),
        (1500 + 500 * torch.sin(2 * math.pi * 0.6 * time + 1), 200.0),
        (2600 + 200 * torch.sin(2 * math.pi * 0.4 * time + 2), 300.0),
    ]
    voice = torch.zeros_like(time)
    for k in range(1, 41):
        frequency = k * pitch
        envelope = sum(1 / (1 + ((frequency - centre) / width) ** 2) for centre, width in formants)
        audible = (frequency < 0.45 * sample_rate_hz).double()
        voice += audible * envelope * torch.sin(k * phase) / math.sqrt(k)
    syllable = (4 * time) % 1
    loudness = torch.sin(math.pi * syllable).clamp(min=0).square() * (((4 * time).floor() % 5) != 4)
    onset = torch.exp(-syllable / 0.05) * (((4 * time).floor() % 5) != 4)
    wave = loudness * voice + 0.1 * onset * _noise(len(time), seed=1)
    return (wave / wave.square().mean().sqrt() * 10 ** (LEVEL_DB / 20)).float()[None]


def speech(sample_rate_hz: int, levels_db: Sequence[float], seconds: float, path: str | Path = SPEECH) -> Tensor:
    """The beginning of a recording of speech, once at each RMS level in dB re full scale: ``[levels, N]``.

    Raises:
        ValueError: if the file cannot be read, or is silent.
    """
    wave = read(path, sample_rate_hz, stop=round(seconds * sample_rate_hz)).double()
    if not wave.any():
        raise UserError(f"{path}: is silent, so it cannot serve as a probe")
    gains = 10 ** (torch.tensor(levels_db, dtype=torch.float64) / 20)
    return (gains[:, None] * wave / wave.square().mean().sqrt()).float()


def with_noise(clean: Tensor, snr_db: float = SNR_DB) -> Tensor:
    """``[B, N]`` with fixed white noise ``snr_db`` below each item, orthogonal to it: what is left biases no gain.

    Raises:
        ValueError: if ``clean`` is silent.
    """
    signal = clean.double()
    if not signal.any(1).all():
        raise UserError("a silent signal cannot serve as a probe")
    noise = _noise(clean.shape[1], seed=2)[None].to(clean.device)
    noise = noise - signal * ((noise * signal).sum(1, keepdim=True) / signal.square().sum(1, keepdim=True))
    ratio = signal.square().mean(1, keepdim=True) / noise.square().mean(1, keepdim=True)
    return (signal + noise * ratio.sqrt() * 10 ** (-snr_db / 20)).to(clean)


def _noise(samples: int, seed: int) -> Tensor:
    with torch.device("cpu"):
        return torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
