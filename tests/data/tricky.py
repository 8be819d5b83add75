"""A corpus whose names sort differently as strings and as paths, of several rates, formats and lengths."""

from __future__ import annotations

from pathlib import Path

from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses

SMALL_MB = 0.03  # makes several shards of a few files each


def make_tricky(root: Path) -> Path:
    make_corpus(root, files=2, seconds=0.6)
    for split in ("train", "valid"):
        put(root / "speech" / split / "a-b" / "c.wav", tone_and_pauses(0.9, 8000, seed=50), 8000)
        put(root / "speech" / split / "a" / "b.flac", tone_and_pauses(1.3, seed=51))
        put(root / "speech" / split / "a" / "É é.wav", tone_and_pauses(0.2, 48000, seed=52), 48000)
        put(root / "speech" / split / "a b" / "Z.ogg", tone_and_pauses(1.1, seed=53))
        put(root / "noise" / split / "short.wav", hiss(0.05, seed=54))
        put(root / "noise" / split / "x" / "long.flac", hiss(2.5, 44100, seed=55), 44100)
    return root
