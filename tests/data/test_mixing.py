import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from kdse.audio.levels import active_db, level_db, lufs_db, measured_snr_db, rms_db
from kdse.data.mixing import mix
from tests.data.small_corpus import hiss, tone_and_pauses


def wave(values) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values)).float()


SPEECH, NOISE = wave(tone_and_pauses(3.0)), wave(hiss(3.0))


def reference_rms_db(x: np.ndarray) -> float:
    return 10 * math.log10(np.mean(np.square(x, dtype=np.float64)))


def reference_active_db(x: np.ndarray, rate: int = 16000) -> float:
    """A plain loop: mean power of the 20 ms frames that are within 40 dB of the loudest."""
    size = rate // 50
    powers = [float(np.mean(np.square(x[i : i + size], dtype=np.float64))) for i in range(0, len(x) - size + 1, size)]
    return 10 * math.log10(np.mean([p for p in powers if p >= max(powers) / 1e4]))


def reference_lufs(x: np.ndarray, rate: int = 16000) -> float:
    """ITU-R BS.1770-4, its filters redesigned for the rate (De Man's formulas), and both gates, in float64."""
    x = np.asarray(x, dtype=np.float64)
    for kind, f0, q, gain_db in (
        ("shelf", 1681.974450955533, 0.7071752369554196, 3.999843853973347),
        ("high", 38.13547087602444, 0.5003270373238773, 0.0),
    ):
        k = math.tan(math.pi * f0 / rate)
        vh = 10 ** (gain_db / 20)
        vb = vh**0.4996667741545416
        a0 = 1 + k / q + k * k
        a = [1, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
        if kind == "shelf":
            b = [(vh + vb * k / q + k * k) / a0, 2 * (k * k - vh) / a0, (vh - vb * k / q + k * k) / a0]
        else:
            b = [1.0, -2.0, 1.0]
        x = lfilter(b, a, x)
    block, step = round(0.4 * rate), round(0.1 * rate)
    powers = np.array([np.mean(x[i : i + block] ** 2) for i in range(0, len(x) - block + 1, step)])
    loud = -0.691 + 10 * np.log10(powers + 1e-30)
    powers, loud = powers[loud > -70], loud[loud > -70]
    gate = -0.691 + 10 * np.log10(powers.mean()) - 10
    return -0.691 + 10 * math.log10(powers[loud > gate].mean())


@given(
    snr_db=st.floats(-20, 30),
    definition=st.sampled_from(["rms", "active"]),
    level_dbfs=st.none() | st.floats(-50, 0),
    noise_gain=st.floats(1e-3, 5),
)
@settings(max_examples=60, deadline=None)
def test_the_measured_snr_is_the_requested_one(snr_db, definition, level_dbfs, noise_gain):
    mixture = mix(SPEECH, NOISE * noise_gain, snr_db, definition, level_dbfs=level_dbfs)
    speech, noise = mixture.speech.numpy(), mixture.noise.numpy()
    level = reference_rms_db if definition == "rms" else reference_active_db
    assert level(speech) - reference_rms_db(noise) == pytest.approx(snr_db, abs=1e-3)
    assert mixture.snr_db == snr_db


@pytest.mark.parametrize("snr_db", [-5, 0, 12.5])
@pytest.mark.parametrize("stored_dbfs", [-20, -45, -80])
def test_the_lufs_snr_agrees_with_bs1770_at_any_stored_level(snr_db, stored_dbfs):
    gain = 10 ** ((stored_dbfs - rms_db(NOISE)) / 20)
    mixture = mix(SPEECH, NOISE * gain, snr_db, "lufs", level_dbfs=-26)
    assert measured_snr_db(mixture.speech, mixture.noise, "lufs") == pytest.approx(snr_db, abs=1e-3)
    # torchaudio rounds the K-weighting filters' frequencies and gain: 0.1 dB between signals of unlike spectra
    assert reference_lufs(mixture.speech) - reference_lufs(mixture.noise) == pytest.approx(snr_db, abs=0.15)


def test_levels_agree_with_plain_references():
    quiet = [SPEECH * gain for gain in (1, 0.1, 0.02, 0.003)]
    for x in (SPEECH, NOISE, torch.cat([SPEECH, torch.zeros(16000)]), torch.cat(quiet)):
        assert rms_db(x) == pytest.approx(reference_rms_db(x.numpy()), abs=1e-6)
        assert active_db(x, 16000) == pytest.approx(reference_active_db(x.numpy()), abs=1e-6)
        assert lufs_db(x, 16000) == pytest.approx(reference_lufs(x.numpy()), abs=0.15)


def test_the_active_level_does_not_depend_on_pauses():
    padded = torch.cat([torch.zeros(16000), SPEECH, torch.zeros(32000)])
    assert active_db(padded, 16000) == pytest.approx(float(active_db(SPEECH, 16000)), abs=1e-6)
    assert rms_db(padded) == pytest.approx(float(rms_db(SPEECH)) - 10 * math.log10(2), abs=1e-3)


@given(snr_db=st.floats(-20, 30), level_dbfs=st.none() | st.floats(-50, 0), room=st.booleans())
@settings(max_examples=40, deadline=None)
def test_noisy_is_speech_plus_noise_exactly_and_never_clips(snr_db, level_dbfs, room):
    mixture = mix(SPEECH, NOISE, snr_db, level_dbfs=level_dbfs, clean=SPEECH * 0.7 if room else None)
    assert torch.equal(mixture.noisy, mixture.speech + mixture.noise)
    if not room:
        assert torch.equal(mixture.clean, mixture.speech)
    assert mixture.noisy.abs().max() <= 0.99 + 1e-6
    assert mixture.clean.abs().max() <= 0.99 + 1e-6


def test_the_mixture_has_the_requested_level_unless_that_would_clip():
    assert rms_db(mix(SPEECH, NOISE, 3.0, level_dbfs=-30).noisy) == pytest.approx(-30, abs=1e-4)
    loud = mix(SPEECH, NOISE, 3.0, level_dbfs=0)
    assert loud.noisy.abs().max() == pytest.approx(0.99, abs=1e-5)
    assert rms_db(loud.noisy) < 0
    assert rms_db(loud.speech) - rms_db(loud.noise) == pytest.approx(3.0, abs=1e-4)


@pytest.mark.parametrize("definition", ["rms", "active", "lufs"])
@pytest.mark.parametrize(("speech", "noise"), [(SPEECH * 0, NOISE), (SPEECH, NOISE * 0), (SPEECH * 0, NOISE * 0)])
def test_silence_gives_finite_audio_and_an_unknown_snr(definition, speech, noise):
    mixture = mix(speech, noise, 5.0, definition, level_dbfs=-30)
    assert math.isnan(mixture.snr_db)
    assert all(torch.isfinite(part).all() for part in mixture[:4])
    assert torch.equal(mixture.noisy, mixture.speech + mixture.noise)


def test_the_room_of_the_target_does_not_change_the_snr():
    mixture = mix(SPEECH, NOISE, 4.0, clean=SPEECH * 0.25)
    torch.testing.assert_close(mixture.clean, mixture.speech * 0.25)
    assert rms_db(mixture.speech) - rms_db(mixture.noise) == pytest.approx(4.0, abs=1e-4)


def test_an_unknown_definition_and_a_short_lufs_segment_are_refused():
    with pytest.raises(ValueError, match="--data.snr_definition loud: use one of rms, active, lufs"):
        level_db(SPEECH, "loud", 16000)
    with pytest.raises(ValueError, match="shorter than one 0.4 s block"):
        lufs_db(SPEECH[:3200], 16000)
