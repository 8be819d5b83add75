"""Spectrograms as small pictures: all of one file on one colour scale, columns spread evenly over time."""

from __future__ import annotations

import io

import numpy as np

from kdse.web.embedding import COLOURS, palette

#: Points of the STFT (Hann window), and rows of a picture: bins from 0 Hz (lowest) to half the sampling rate.
POINTS, BINS = 512, 257
#: Most columns of a picture; the frames of a longer file are pooled (our choice: about what a screen shows).
MAX_COLUMNS = 640
#: Samples a column of a short file, and most samples between two frames (our choice: 75 % and 50 % overlap).
COLUMN_SAMPLES, MAX_HOP_SAMPLES = POINTS // 4, POINTS // 2
#: Lowest level drawn, in dB below the reference (as in `LogExamples`).
FLOOR_DB = -80.0
#: Frames transformed at once: keeps long files in some ten MB of memory.
_FRAMES_AT_ONCE = 4096


def power(wave: np.ndarray) -> np.ndarray:
    """Power ``[257, columns]`` of a wave ``[N]``, N at least 1: squared magnitude of a 512-point Hann STFT.

    Column k covers samples ``k N / columns`` to ``(k + 1) N / columns`` exactly, so that the picture's width is the
    file's duration: frames are centred on evenly spread (rounded) samples, zeros are assumed outside the file. Where a
    column is longer than half a window it is the mean power of several frames.
    """
    from scipy import fft
    from scipy.signal.windows import hann

    samples = len(wave)
    columns = min(MAX_COLUMNS, -(-samples // COLUMN_SAMPLES))
    pooled = -(-samples // (columns * MAX_HOP_SAMPLES))
    frames = columns * pooled
    starts = np.floor((np.arange(frames) + 0.5) * samples / frames).astype(np.int64)
    padded = np.pad(np.asarray(wave, dtype=np.float32), POINTS // 2)
    window = hann(POINTS, sym=False).astype(np.float32)
    result = np.empty((columns, BINS), dtype=np.float32)
    step = max(1, _FRAMES_AT_ONCE // pooled)
    for first in range(0, columns, step):
        part = starts[first * pooled : (first + step) * pooled, None] + np.arange(POINTS)
        spectrum = fft.rfft(padded[part] * window, axis=-1)
        squared = spectrum.real**2 + spectrum.imag**2
        result[first : first + step] = squared.reshape(-1, pooled, BINS).mean(axis=1)
    return result.T


def picture(power: np.ndarray, reference: float) -> bytes:
    """PNG of a power spectrogram ``[257, columns]``: low frequencies at the bottom, 0 dB (brightest) at ``reference``.

    Levels outside -80 to 0 dB take the colour of the nearer end. A reference of 0 (silence) gives a dark picture.
    """
    tiny = 10 ** (FLOOR_DB / 10 - 1)
    ratio = power / reference if reference > 0 else np.zeros_like(power)
    level_db = np.clip(10 * np.log10(np.maximum(ratio, tiny)), FLOOR_DB, 0)
    return _png(np.rint((1 - level_db / FLOOR_DB) * (COLOURS - 1)).astype(np.uint8)[::-1])


def colour_bar() -> bytes:
    """PNG of the colour scale, one pixel high: -80 dB at the left, 0 dB at the right."""
    return _png(np.arange(COLOURS, dtype=np.uint8)[None])


def _png(indices: np.ndarray) -> bytes:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(indices)).convert("L")
    image.putpalette(palette())
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
