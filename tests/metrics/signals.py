"""Speech-like test signals: PESQ and STOI want bursts of a modulated harmonic sound, not steady noise."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

RATE_HZ = 16000


def speech_like(seed: int = 0, seconds: float = 1.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Harmonics of a gliding pitch in syllables of about 4 Hz, float32 [N]."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch_hz = 110 + 40 * rng.random() + 15 * np.sin(2 * np.pi * 0.7 * time + rng.random())
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    tone = sum(np.sin(k * phase + rng.random()) / k for k in range(1, 25))
    syllables = np.clip(np.sin(2 * np.pi * 3.7 * time + 6 * rng.random()), 0, None) ** 0.7
    return (0.05 * tone * syllables).astype(np.float32)


def noisy_version(clean: np.ndarray, snr_db: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(len(clean))
    noise *= np.sqrt(np.mean(clean.astype(np.float64) ** 2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return (clean + noise).astype(np.float32)


def corpus() -> Path | None:
    """The real recordings, where they are."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "corpus"
    folder = Path(os.environ.get("KDSE_CORPUS") or default)
    return folder if (folder / "pairs" / "vbdmd_test" / "noisy").is_dir() else None
