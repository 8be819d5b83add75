"""A fixed signal with the traits of speech, to measure a teacher on before any data is seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdse.errors import UserError

#: Level of the clean signal and of the noise under it. Our choice: a teacher leaves such a signal nearly as it is.
LEVEL_DB = -25.0
SNR_DB = 20.0


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


def with_noise(clean: Tensor) -> Tensor:
    """``[1, N]`` with fixed white noise ``SNR_DB`` below it, orthogonal to it: what is left of it biases no gain.

    Raises:
        ValueError: if ``clean`` is silent.
    """
    speech = clean.double()
    if not speech.any():
        raise UserError("a silent signal cannot serve as a probe")
    noise = _noise(clean.shape[1], seed=2)[None].to(clean.device)
    noise = noise - speech * ((noise * speech).sum() / speech.square().sum())
    noise = noise / noise.square().mean().sqrt() * speech.square().mean().sqrt() * 10 ** (-SNR_DB / 20)
    return (speech + noise).to(clean)


def _noise(samples: int, seed: int) -> Tensor:
    with torch.device("cpu"):
        return torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
