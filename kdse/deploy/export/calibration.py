"""Audio that shows a quantiser which values a student's activations take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdse.models.onnx_student import OnnxStudent

CLIPS = 8
CLIP_SECONDS = 4.0


def calibration_clips(folder: Path, sample_rate_hz: int, clips: int = CLIPS) -> list[np.ndarray]:
    """Noisy clips ``[N]`` of up to four seconds.

    Args:
        folder: a corpus (then mixtures of its training speech and noise at -5 to 15 dB, never of its test split), or
            any folder of noisy audio files, of which evenly spaced ones are taken from their start.
        sample_rate_hz: of the clips.
        clips: how many. Eight give 32 s; our choice.

    Raises:
        ValueError: if the folder holds no audio.
    """
    from kdse.audio.files import EXTENSIONS, read
    from kdse.data.mixtures import Mixtures

    samples = round(CLIP_SECONDS * sample_rate_hz)
    if (folder / "speech" / "train").is_dir() and (folder / "noise" / "train").is_dir():
        data = Mixtures(root=str(folder), sample_rate_hz=sample_rate_hz, seed=0)
        mixtures = data.mixture_set("train", data.snr_db, samples, clips, False)
        return [mixtures[i]["noisy"].numpy() for i in range(clips)]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS) if folder.is_dir() else []
    if not paths:
        raise ValueError(
            f"--calibration {folder}: no folder with audio files; give a corpus or a folder of noisy audio"
        )
    spread = [paths[i * len(paths) // clips] for i in range(clips)] if len(paths) > clips else paths
    try:
        return [read(path, sample_rate_hz)[:samples].numpy() for path in spread]
    except ValueError as error:
        raise ValueError(f"--calibration {error}") from None


class _Listener(OnnxStudent):
    """A student that keeps what its graph is fed, hop by hop."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.heard: list[dict[str, np.ndarray]] = []

    def run(self, first: Tensor, states: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        feeds = {f"state.{name}": value.numpy().copy() for name, value in states.items()}
        self.heard.append({self._first: first.numpy().copy(), **feeds})
        return super().run(first, states)


def feeds(path: Path, clips: Iterable[np.ndarray]) -> Iterator[dict[str, Any]]:
    """What the float step graph at ``path`` is fed over the clips, its states as they evolve, hop by hop."""
    student = _Listener(str(path))
    for clip in clips:
        student.heard.clear()
        student(torch.from_numpy(np.asarray(clip, dtype=np.float32))[None])
        yield from student.heard
