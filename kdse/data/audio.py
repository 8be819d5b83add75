"""Reading and writing audio files: mono float32 at a stated rate, errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

EXTENSIONS = (".flac", ".wav", ".ogg")


class AudioInfo(NamedTuple):
    """Length in samples, rate in Hz and channels of a file."""

    frames: int
    sample_rate_hz: int
    channels: int


def info(path: str | Path) -> AudioInfo:
    """Length, rate and channels from the header.

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    import soundfile

    try:
        about = soundfile.info(str(path))
    except (RuntimeError, OSError, TypeError) as error:
        raise ValueError(f"{path}: not readable as audio ({_reason(error)})") from None
    return AudioInfo(about.frames, about.samplerate, about.channels)


def read(path: str | Path, sample_rate_hz: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Samples ``[start, stop)`` as mono float32 ``[N]`` at ``sample_rate_hz``.

    Several channels are averaged; another rate is resampled (start and stop count samples at ``sample_rate_hz``).
    Only the asked part is decoded.

    Raises:
        ValueError: naming the file, if it is unreadable, cut short, or holds NaN or infinite samples.
    """
    import soundfile

    try:
        with soundfile.SoundFile(str(path)) as file:
            rate = file.samplerate
            first = start * rate // sample_rate_hz
            last = file.frames if stop is None else min(file.frames, -(-stop * rate // sample_rate_hz))
            file.seek(first)
            data = file.read(max(0, last - first), dtype="float32", always_2d=True)
    except (RuntimeError, OSError, TypeError) as error:
        raise ValueError(f"{path}: not readable as audio ({_reason(error)})") from None
    if len(data) < last - first:
        raise ValueError(f"{path}: cut short: {len(data)} of {last - first} samples could be read")
    wave = torch.from_numpy(np.ascontiguousarray(data[:, 0] if data.shape[1] == 1 else data.mean(1, dtype=np.float32)))
    if not torch.isfinite(wave).all():
        raise ValueError(f"{path}: holds NaN or infinite samples")
    if rate != sample_rate_hz:
        from torchaudio.functional import resample

        wave = resample(wave, rate, sample_rate_hz)
    return wave if stop is None else wave[: stop - start]


def write(path: str | Path, wave: Tensor, sample_rate_hz: int, subtype: str | None = None) -> None:
    """Writes ``[N]`` or ``[C, N]``; the extension chooses the format."""
    import soundfile

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    data = wave.detach().cpu().numpy()
    soundfile.write(str(path), data.T if data.ndim == 2 else data, sample_rate_hz, subtype=subtype)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[-120:] or type(error).__name__
