"""Promises of `kdse.metrics.spectral`: LSD through `score`, LLR and WSS by themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz, toeplitz

from kdse.metrics import score
from kdse.metrics.clean_and_estimate import Pair
from kdse.metrics.spectral import BANDWIDTHS_HZ, CENTRES_HZ, best_mean, llr, wss
from tests.metrics.signals import RATE_HZ, noisy_version, speech_like


def items(rate_hz: int = RATE_HZ, seconds: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Speech-like sound over a faint hiss, as in recordings, and a noisy version of it."""
    clean = noisy_version(speech_like(1, seconds, rate_hz), 50.0, seed=9).astype(np.float64)
    return clean, noisy_version(clean, 5.0).astype(np.float64)


def lsd(clean: np.ndarray, estimate: np.ndarray, rate_hz: int = RATE_HZ) -> float:
    scores = score(clean, estimate, rate_hz, ["lsd"])
    assert not scores.failures
    return scores.values["lsd"]


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_lsd_is_that_of_a_plain_loop(rate_hz: int) -> None:
    clean, noisy = items(rate_hz)
    size, hop = round(0.032 * rate_hz), round(0.008 * rate_hz)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / size) for n in range(size)]
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size)
    starts = range(0, len(clean) - size + 1, hop)
    spectra = [[np.abs(fourier @ (x[s : s + size] * window)) for s in starts] for x in (clean, noisy)]
    floor_db = max(20 * math.log10(bin_) for frame in spectra[0] for bin_ in frame) - 50
    distances = []
    for frame, other in zip(*spectra, strict=True):
        differences = [
            max(20 * math.log10(a), floor_db) - max(20 * math.log10(b), floor_db)
            for a, b in zip(frame, other, strict=True)
        ]
        distances.append(math.sqrt(sum(d * d for d in differences) / len(differences)))
    assert lsd(clean, noisy, rate_hz) == pytest.approx(sum(distances) / len(distances), abs=2e-6)


def test_lsd_of_a_level_error_is_that_error_and_of_a_copy_is_nothing() -> None:
    clean = np.random.default_rng(0).standard_normal(RATE_HZ)  # white: hardly any bin near the floor
    assert lsd(clean, clean) == 0.0
    assert lsd(clean, clean * 10 ** (6 / 20)) == pytest.approx(6.0, abs=0.01)
    assert lsd(clean, clean * 10 ** (-6 / 20)) == pytest.approx(6.0, abs=0.02)


def test_lsd_does_not_depend_on_the_level_of_both_and_is_bounded_by_its_range() -> None:
    clean, noisy = items()
    assert lsd(1e-3 * clean, 1e-3 * noisy) == pytest.approx(lsd(clean, noisy), abs=2e-6)
    assert 0 < lsd(clean, 1e-7 * clean) <= 50


def test_too_short_for_a_frame_of_lsd_is_a_failure_with_a_reason() -> None:
    clean = np.ones(511)
    assert "shorter than 32 ms" in score(clean, clean, RATE_HZ, ["lsd"]).failures["lsd"]
    assert lsd(np.ones(512), np.ones(512)) == 0.0


def frames(signal: np.ndarray, rate_hz: int) -> list[np.ndarray]:
    """30 ms windowed with Hann, every 7.5 ms."""
    size = round(0.03 * rate_hz)
    hop = size // 4
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(1, size + 1) / (size + 1)))
    count = math.floor(len(signal) / hop - size / hop)
    return [signal[i * hop : i * hop + size] * window for i in range(count)]


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_llr_is_that_of_solving_the_normal_equations_frame_by_frame(rate_hz: int) -> None:
    clean, noisy = items(rate_hz)
    order = 16 if rate_hz == 16000 else 10
    expected = []
    for s, e in zip(frames(clean, rate_hz), frames(noisy, rate_hz), strict=True):
        lags = [[float(x[: len(x) - k] @ x[k:]) for k in range(order + 1)] for x in (s, e)]
        ideal, got = (np.concatenate([[1], -solve_toeplitz(r[:order], r[1:])]) for r in lags)
        matrix = toeplitz(lags[0])
        expected.append(math.log((got @ matrix @ got) / (ideal @ matrix @ ideal)))
    assert llr(Pair(clean, noisy, rate_hz)) == pytest.approx(expected, abs=1e-6)


def test_llr_knows_spectral_shape_but_not_level() -> None:
    clean, noisy = items()
    assert llr(Pair(clean, 7 * clean, RATE_HZ)) == pytest.approx(0, abs=1e-9)
    assert llr(Pair(clean, 7 * noisy, RATE_HZ)) == pytest.approx(llr(Pair(clean, noisy, RATE_HZ)), abs=1e-9)
    assert (llr(Pair(clean, noisy, RATE_HZ)) > 0).all()


def test_llr_leaves_out_silent_speech_and_takes_a_silent_estimate_as_flat() -> None:
    clean, noisy = items()
    half = clean.copy()
    half[: len(half) // 2] = 0
    assert 0 < llr(Pair(half, noisy, RATE_HZ)).size < llr(Pair(clean, noisy, RATE_HZ)).size
    # a flat model leaves the energy of the clean speech as it is: its prediction gain is lost, as for an impulse
    impulse = np.zeros_like(clean)
    impulse[::480] = 1  # one in every frame
    gains = llr(Pair(clean, impulse, RATE_HZ))
    assert llr(Pair(clean, np.zeros_like(clean), RATE_HZ)) == pytest.approx(gains, abs=1e-9)
    with pytest.raises(ValueError, match="clean is silent"):
        llr(Pair(np.zeros_like(clean), noisy, RATE_HZ))


@pytest.mark.parametrize("kind", ["constant", "tone", "zeros and a click"])
def test_llr_is_finite_on_what_is_predicted_without_error(kind: str) -> None:
    clean = {
        "constant": np.full(4000, 0.1),
        "tone": np.sin(np.arange(4000) / 5),
        "zeros and a click": np.eye(1, 4000, 99)[0],
    }
    _, noisy = items()
    for pair in (Pair(clean[kind], noisy[:4000], RATE_HZ), Pair(noisy[:4000], clean[kind], RATE_HZ)):
        assert np.isfinite(llr(pair)).all()


def klatt(energy_db: list[float], slopes: list[float]) -> list[float]:
    """Weights by walking to the nearest peak, as published; lists count from 1 (index 0 is unused)."""
    loudest = max(energy_db[1:])
    weights = []
    for i in range(1, 25):
        n = i
        if slopes[i] > 0:
            while n < 25 and slopes[n] > 0:
                n += 1
            peak = energy_db[n - 1]
        else:
            while n > 0 and slopes[n] <= 0:
                n -= 1
            peak = energy_db[n + 1]
        weights.append(20 / (20 + loudest - energy_db[i]) * 1 / (1 + peak - energy_db[i]))
    return weights


def bands_db(frame: np.ndarray, rate_hz: int) -> list[float]:
    points = 512 if rate_hz == 8000 else 1024
    power = np.abs(np.fft.fft(frame, points)) ** 2
    energies = []
    for centre, width in zip(CENTRES_HZ, BANDWIDTHS_HZ, strict=True):
        to_bins = points / 2 / (rate_hz / 2)
        total = 0.0
        for j in range(points // 2):
            gain = math.exp(-11 * ((j - math.floor(centre * to_bins)) / (width * to_bins)) ** 2) * 70 / width
            total += gain * power[j] if gain > math.exp(-30 / (2 * 2.303)) else 0.0
        energies.append(10 * math.log10(max(total, 1e-10)))
    return energies


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_wss_is_that_of_walking_through_the_bands(rate_hz: int) -> None:
    clean, noisy = items(rate_hz, 0.15)
    expected = []
    for pair in zip(frames(clean, rate_hz), frames(noisy, rate_hz), strict=True):
        energies = [[math.nan, *bands_db(frame, rate_hz)] for frame in pair]
        slopes = [[math.nan, *np.diff(e[1:])] for e in energies]
        weights = np.mean([klatt(e, s) for e, s in zip(energies, slopes, strict=True)], axis=0)
        squares = [(a - b) ** 2 for a, b in zip(slopes[0][1:], slopes[1][1:], strict=True)]
        expected.append(sum(weights * squares) / sum(weights))
    assert wss(Pair(clean, noisy, rate_hz)) == pytest.approx(expected, abs=1e-6)


def test_wss_of_a_copy_is_nothing_also_where_there_is_silence() -> None:
    clean = speech_like(1, 0.5).astype(np.float64)
    assert (wss(Pair(clean, clean, RATE_HZ)) == 0).all()
    assert np.isfinite(wss(Pair(clean, np.zeros_like(clean), RATE_HZ))).all()


def test_the_worst_5_percent_of_frames_do_not_count_and_their_number_rounds_half_up() -> None:
    assert best_mean(np.array([100.0, *[1.0] * 19])) == 1.0
    assert best_mean(np.arange(10.0)) == 4.5  # 9.5 of 10 frames: all
    assert best_mean(np.array([1.0])) == 1.0
