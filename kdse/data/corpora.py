"""A corpus: a folder of audio files and how long each is."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kdse.data.audio import EXTENSIONS, info


@dataclass(frozen=True)
class Corpus:
    """Audio files under one folder, sorted by relative path.

    root: the folder.
    paths: relative paths, POSIX style, sorted.
    frames: samples of each file at its own rate.
    rates: sample rate of each file in Hz.
    """

    root: str
    paths: tuple[str, ...]
    frames: tuple[int, ...]
    rates: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Path of a file."""
        return Path(self.root) / self.paths[index]

    def samples(self, index: int, sample_rate_hz: int) -> int:
        """Length of a file in samples at ``sample_rate_hz``."""
        return self.frames[index] * sample_rate_hz // self.rates[index]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names and lengths: what a mixture depends on besides seed, epoch and index."""
        digest = hashlib.sha256()
        for path, frames, rate in zip(self.paths, self.frames, self.rates, strict=True):
            digest.update(f"{path}\0{frames}\0{rate}\n".encode())
        return digest.hexdigest()


def scan(folder: str | Path, flag: str) -> Corpus:
    """All audio files below a folder; hidden ones (macOS leaves ``._name.wav``) are passed over.

    Args:
        folder: where to look, recursively.
        flag: the setting the folder came from ("--data.root"), for error messages.

    Raises:
        ValueError: if the folder is missing or holds no audio, or a file is unreadable or empty.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{flag} {root}: no such folder")
    audio = (p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
    paths = sorted(p for p in audio if p.is_file())
    if not paths:
        raise ValueError(f"{flag} {root}: holds no audio files ({', '.join(EXTENSIONS)})")
    with ThreadPoolExecutor(8) as pool:
        abouts = list(pool.map(info, paths))
    for path, about in zip(paths, abouts, strict=True):
        if about.frames == 0:
            raise ValueError(f"{flag} {path}: holds no samples; remove it")
    return Corpus(
        root=str(root),
        paths=tuple(p.relative_to(root).as_posix() for p in paths),
        frames=tuple(a.frames for a in abouts),
        rates=tuple(a.sample_rate_hz for a in abouts),
    )


def corpus_root(flag: str | None) -> Path:
    """The corpus folder from ``--data.root`` or the environment variable KDSE_CORPUS.

    Raises:
        ValueError: if neither is given.
    """
    value = flag or os.environ.get("KDSE_CORPUS")
    if not value:
        raise ValueError(
            "no corpus: give --data.root FOLDER (with speech/train, noise/train, ...) or set KDSE_CORPUS; "
            "--data=kdse.data.SyntheticCorpus needs none"
        )
    return Path(value)
