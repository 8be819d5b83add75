"""Sound of the report page: nothing is lost but what 16 bits lose, and no signal is normalised by itself."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import soundfile

from kdse.report.page.audio import flac, level_db, shared_gain, trouble


@pytest.mark.parametrize("samples", [1, 15, 16, 4097, 50001])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_flac_holds_every_sample_to_half_a_step(samples, rate):
    wave = np.random.default_rng(samples).uniform(-0.1, 0.1, samples).astype(np.float32)
    gain = shared_gain([wave])
    decoded, decoded_rate = soundfile.read(io.BytesIO(flac(wave, gain, rate)), dtype="float64")
    assert decoded_rate == rate and len(decoded) == samples
    assert np.abs(decoded - gain * wave.astype(np.float64)).max() <= 0.5 / 2**15


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_the_loudest_of_all_signals_peaks_at_minus_one_dbfs_and_ratios_are_kept(scale):
    loud, quiet = (np.array([0.0, peak * scale, -0.1 * scale], dtype=np.float32) for peak in (-0.8, 0.2))
    gain = shared_gain([quiet, loud])
    decoded = [soundfile.read(io.BytesIO(flac(wave, gain, 16000)), dtype="float64")[0] for wave in (loud, quiet)]
    assert 20 * math.log10(np.abs(decoded[0]).max()) == pytest.approx(-1.0, abs=1e-3)
    assert np.abs(decoded[1]).max() / np.abs(decoded[0]).max() == pytest.approx(0.25, abs=1e-4)


def test_silence_stays_silence():
    silence = np.zeros(100, dtype=np.float32)
    assert shared_gain([silence]) == 1.0 and shared_gain([]) == 1.0
    assert not soundfile.read(io.BytesIO(flac(silence, 1.0, 16000)))[0].any()


def test_level_is_the_ratio_of_rms_values():
    wave = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert level_db(0.5 * wave, wave) == pytest.approx(20 * math.log10(0.5), abs=1e-5)
    assert math.isnan(level_db(0 * wave, wave)) and math.isnan(level_db(wave, 0 * wave))


def test_what_cannot_be_played_is_said_in_words():
    good = np.ones(3, dtype=np.float32)
    assert trouble(good) == "" and "no samples" in trouble(good[:0])
    for bad in (np.nan, np.inf, -np.inf):
        assert "NaN or infinite" in trouble(np.array([0, bad], dtype=np.float32))


def test_a_rate_that_flac_cannot_hold_is_named():
    with pytest.raises(ValueError, match="sample_rate_hz=700000"):
        flac(np.ones(4, dtype=np.float32), 0.5, 700000)
