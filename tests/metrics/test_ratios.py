"""Promises of segmental SNR (`kdse.metrics.ratios`); SI-SDR and SDR are tested through `score`."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdse.metrics import score
from tests.metrics.signals import RATE_HZ, noisy_version, speech_like


def seg_snr(clean: np.ndarray, estimate: np.ndarray, rate_hz: int = RATE_HZ) -> float:
    scores = score(clean, estimate, rate_hz, ["seg_snr"])
    assert not scores.failures
    return scores.values["seg_snr"]


def loop(clean: np.ndarray, estimate: np.ndarray, rate_hz: int) -> float:
    """Frame by frame and sample by sample, from the definition."""
    size = round(0.03 * rate_hz)
    hop = size // 4
    eps = 2.0**-52
    values = []
    for start in range(0, math.floor(len(clean) / hop - size / hop) * hop, hop):
        signal = noise = 0.0
        for n in range(size):
            window = 0.5 * (1 - math.cos(2 * math.pi * (n + 1) / (size + 1)))
            s, e = float(clean[start + n]), float(estimate[start + n])
            signal += (window * s) ** 2
            noise += (window * (s - e)) ** 2
        values.append(min(35.0, max(-10.0, 10 * math.log10(signal / (noise + eps) + eps))))
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
@pytest.mark.parametrize("snr_db", [-5.0, 10.0])
def test_segmental_snr_is_that_of_a_plain_loop(rate_hz: int, snr_db: float) -> None:
    clean = speech_like(2, 0.4, rate_hz)
    noisy = noisy_version(clean, snr_db)
    assert seg_snr(clean, noisy, rate_hz) == pytest.approx(loop(clean, noisy, rate_hz), abs=2e-6)


def test_a_constant_snr_is_returned_and_the_limits_hold() -> None:
    clean = np.random.default_rng(0).standard_normal(RATE_HZ)
    for gain, expected in ((0.5, 20 * math.log10(2)), (2.0, 0.0), (1.0, 35.0), (1.001, 35.0), (-9.0, -10.0)):
        assert seg_snr(clean, gain * clean) == pytest.approx(expected, abs=1e-6)


def test_frames_without_speech_count_minus_10_db_whatever_the_estimate_is() -> None:
    clean = np.random.default_rng(0).standard_normal(480 + 120 * 80)
    clean[: 480 + 120 * 39] = 0  # 40 of the 80 frames
    half_silent = 10 * np.log10(4)
    estimate = 0.5 * clean
    with_noise = estimate.copy()
    with_noise[:4800] += 0.1
    frames = 80
    for got in (seg_snr(clean, estimate), seg_snr(clean, with_noise)):
        # 40 silent frames, and 3 more that begin in silence but hold speech
        assert got == pytest.approx((40 * -10 + 40 * half_silent) / frames, abs=0.4)
    assert seg_snr(clean, clean) == pytest.approx((40 * -10 + 40 * 35) / frames, abs=0.7)


def test_shorter_than_two_frame_steps_is_a_failure_with_a_reason() -> None:
    clean = speech_like()[:599] + 0.1
    scores = score(clean, 0.5 * clean, RATE_HZ, ["seg_snr"])
    assert "shorter than 37.5 ms" in scores.failures["seg_snr"]
    assert not score(speech_like()[:600] + 0.1, clean[:1].repeat(600), RATE_HZ, ["seg_snr"]).failures
