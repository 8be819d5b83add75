"""Pictures of spectrograms: right levels, right rows, right columns, small."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from kdse.report.page.spectrogram import BINS, COLOURS, FLOOR_DB, MAX_COLUMNS, POINTS, colour_bar, picture, power


def indices(png: bytes) -> np.ndarray:
    """Colour numbers ``[rows, columns]``, lowest frequency first."""
    return np.asarray(Image.open(io.BytesIO(png)))[::-1]


def test_power_is_that_of_a_hann_stft_written_as_a_float64_loop():
    wave = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    measured = power(wave)
    columns = measured.shape[1]
    assert columns == 8  # 1000 samples, 128 a column
    n = np.arange(POINTS)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / POINTS)
    for column in range(columns):
        start = int((column + 0.5) * 1000 / columns) - POINTS // 2
        frame = np.array([wave[start + i] if 0 <= start + i < 1000 else 0.0 for i in n], dtype=np.float64)
        for k in (0, 1, 100, 255, 256):
            expected = abs(np.sum(window * frame * np.exp(-2j * np.pi * k * n / POINTS))) ** 2
            assert measured[k, column] == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("samples", [1, 2, 127, 129, 16000, 160000, 1_000_003])
def test_the_width_of_the_picture_is_the_duration_and_bounded(samples):
    wave = np.zeros(samples, dtype=np.float32)
    place = samples * 2 // 3
    wave[place] = 1.0
    measured = power(wave)
    columns = measured.shape[1]
    assert measured.shape[0] == BINS and 1 <= columns <= MAX_COLUMNS
    loudest = np.flatnonzero(measured.sum(0) > 0.5 * measured.sum(0).max())
    assert loudest.min() - 2 <= place * columns / samples <= loudest.max() + 3


@pytest.mark.parametrize("seconds", [1, 60])
@pytest.mark.parametrize("frequency", [1000, 4000])
def test_a_tone_is_a_line_at_its_bin_whether_frames_are_pooled_or_not(seconds, frequency):
    wave = np.sin(2 * np.pi * frequency * np.arange(16000 * seconds) / 16000).astype(np.float32)
    measured = power(wave)
    middle = indices(picture(measured, float(measured.max())))[:, 5:-5]
    row = round(frequency / 16000 * POINTS)
    assert (middle.argmax(0) == row).all() and (middle[row] == COLOURS - 1).all()
    assert (middle[row + 4 :] == 0).all() and (middle[: row - 3] == 0).all()


def test_colours_are_decibels_below_the_reference_and_end_at_the_floor():
    levels = np.array([10.0, 0.0, -20.0, -40.0, FLOOR_DB, -300.0])
    drawn = indices(picture(10 ** (np.tile(levels, (BINS, 1)) / 10) * 7.0, 7.0))
    expected = np.rint((1 - np.clip(levels, FLOOR_DB, 0) / FLOOR_DB) * (COLOURS - 1))
    assert (drawn == expected).all()


def test_lightness_rises_along_the_colour_scale():
    colours = np.asarray(Image.open(io.BytesIO(colour_bar())).convert("RGB"), dtype=float)[0]
    lightness = colours @ [0.2126, 0.7152, 0.0722]
    assert len(colours) == COLOURS and (np.diff(lightness) > 0).all()
    assert lightness[0] < 5 and lightness[-1] > 240


def test_silence_is_a_dark_picture():
    assert not indices(picture(power(np.zeros(500, dtype=np.float32)), 0.0)).any()


def test_a_tone_at_half_the_rate_and_a_constant_are_the_top_and_bottom_rows():
    alternating = np.cos(np.pi * np.arange(4000)).astype(np.float32)
    assert (power(alternating)[:, 5:-5].argmax(0) == BINS - 1).all()
    assert (power(np.ones(4000, dtype=np.float32))[:, 5:-5].argmax(0) == 0).all()
