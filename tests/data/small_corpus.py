"""Tiny corpora for the data tests, and the real one where it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16000


def tone_and_pauses(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Speech-like ``[N]``: bursts of a harmonic tone with pauses, at about -26 dBFS."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 100 + 100 * rng.random()
    wave = sum(np.sin(2 * np.pi * pitch * k * time + rng.random() * 6) / k for k in range(1, 8))
    return 0.05 * wave * (np.sin(2 * np.pi * 2.5 * time + rng.random() * 6) > -0.3)


def hiss(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return 0.05 * np.random.default_rng(1000 + seed).standard_normal(round(seconds * rate))


def room(rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A response with its direct path at 5 ms and a tail of 0.3 s."""
    rng = np.random.default_rng(2000 + seed)
    wave = 0.2 * rng.standard_normal(round(0.3 * rate)) * np.exp(-np.arange(round(0.3 * rate)) / (0.05 * rate))
    wave[: round(0.005 * rate)] = 0
    wave[round(0.005 * rate)] = 0.9
    return wave


def put(path: Path, wave: np.ndarray, rate: int = RATE, **settings: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), wave, rate, **settings)
    return path


def make_corpus(root: Path, files: int = 3, seconds: float = 1.0) -> Path:
    """speech, noise and rir, each with train, valid and test."""
    for s, split in enumerate(("train", "valid", "test")):
        for i in range(files):
            put(root / "speech" / split / f"voice{i}.flac", tone_and_pauses(seconds + 0.1 * i, seed=10 * s + i))
            put(root / "noise" / split / f"noise{i}.flac", hiss(seconds + 0.2 * i, seed=10 * s + i))
        put(root / "rir" / split / "room.wav", room(seed=s), subtype="FLOAT")
    return root


def real_corpus() -> Path:
    """The corpus of recordings: KDSE_CORPUS, else ../shared/corpus beside the checkout. Skips where it is absent."""
    root = Path(os.environ.get("KDSE_CORPUS") or Path(__file__).parents[3] / "shared" / "corpus")
    if not (root / "manifest.csv").is_file():
        pytest.skip(f"no recordings at {root}; set KDSE_CORPUS to their folder")
    return root
