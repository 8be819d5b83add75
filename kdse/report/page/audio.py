"""Sound for the report page: one gain for all signals of a file, FLAC without loss at 16 bits."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable

import numpy as np

from kdse.errors import UserError
from kdse.machine.packages import required

#: Peak of the loudest signal of a file as played.
PEAK_DBFS = -1.0


def trouble(wave: np.ndarray) -> str:
    """Why a wave ``[N]`` cannot be played or drawn, in words; empty if it can."""
    if len(wave) == 0:
        return "holds no samples"
    return "" if np.isfinite(wave).all() else "holds NaN or infinite samples"


def shared_gain(waves: Iterable[np.ndarray]) -> float:
    """The gain that brings the loudest peak of all waves to -1 dBFS; 1 where all are silent."""
    peak = max(map(peak_of, waves), default=0.0)
    return 10 ** (PEAK_DBFS / 20) / peak if peak > 0 else 1.0


def peak_of(wave: np.ndarray) -> float:
    """Largest magnitude of a wave ``[N]``; 0 if empty."""
    return float(np.abs(wave).max(initial=0.0))


def level_db(wave: np.ndarray, reference: np.ndarray) -> float:
    """RMS level of a wave relative to another's, in dB; NaN where one of them is silent."""
    ours, theirs = (float(np.square(x, dtype=np.float64).mean()) for x in (wave, reference))
    return 10 * math.log10(ours / theirs) if ours > 0 and theirs > 0 else math.nan


def int16(wave: np.ndarray, gain: float) -> np.ndarray:
    """16-bit samples of ``gain * wave``, rounded to the nearest step, without dither."""
    return np.rint(np.clip(wave * np.float64(gain), -1, 1 - 2**-15) * 2**15).astype(np.int16)


def flac(wave: np.ndarray, gain: float, sample_rate_hz: int) -> bytes:
    """A mono FLAC file of `int16` samples.

    Raises:
        UserError: naming the rate, if FLAC cannot hold it (1 to 655350 Hz).
    """
    out = io.BytesIO()
    try:
        required("soundfile").write(out, int16(wave, gain), sample_rate_hz, format="FLAC", subtype="PCM_16")
    except (RuntimeError, TypeError) as error:
        raise UserError(f"sample_rate_hz={sample_rate_hz}: not writable as FLAC ({error})") from None
    return out.getvalue()
