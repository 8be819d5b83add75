"""Noises of different kinds differ, voices differ, and simulated rooms have the reverberation that was asked for."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.signal import welch

from kdse.data.synthesis.noises import KINDS, noise
from kdse.data.synthesis.rooms import Room, impulse_response
from kdse.data.synthesis.sentences import sentences_of
from kdse.data.synthesis.speech import random_speaker, speech_clip

RATE = 16000
NAMES = [name for kinds in KINDS.values() for name in kinds]


def fingerprint(wave: np.ndarray) -> np.ndarray:
    """Third-octave-like band levels in dB, how much they move over time in dB, and how peaky the spectrum is."""
    _, power = welch(wave, RATE, nperseg=1024)
    edges = np.geomspace(2, 512, 13).astype(int)
    bands = 10 * np.log10([power[a:b].mean() + 1e-12 for a, b in zip(edges, edges[1:], strict=False)])
    frames = wave[: len(wave) // 800 * 800].reshape(-1, 800)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-8)
    flatness = 10 * np.log10(np.exp(np.log(power + 1e-15).mean()) / power.mean())
    return np.concatenate([bands - bands.mean(), [2 * level.std(), flatness]])


def test_every_two_kinds_of_noise_are_further_apart_than_two_noises_of_a_kind():
    """Means over draws differ by more than the kinds' own spread for nearly all pairs; no two kinds coincide."""
    prints = {name: np.stack([fingerprint(noise(name, seed, 4.0)) for seed in range(3)]) for name in NAMES}
    apart = [np.linalg.norm(prints[a].mean(0) - prints[b].mean(0)) for a, b in combinations(NAMES, 2)]
    spread = np.mean([np.linalg.norm(p - p.mean(0), axis=1).mean() for p in prints.values()])
    assert np.median(apart) > 2 * spread and min(apart) > 5.0  # dB, over fourteen numbers


@pytest.mark.parametrize("name", NAMES)
def test_a_noise_is_a_pure_function_of_kind_and_seed_at_a_safe_level(name):
    one, same, other = noise(name, 1, 2.0), noise(name, 1, 2.0), noise(name, 2, 2.0)
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert len(one) == 2 * RATE and np.isfinite(one).all() and np.abs(one).max() <= 0.9001
    assert 20 * np.log10(one.std()) < -25.5


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(ValueError, match="wind"):
        noise("silence", 0, 1.0)


def test_two_voices_read_the_same_sentence_differently_and_one_voice_the_same():
    text = (sentences_of("en-us", "train")[0],)
    rng = np.random.default_rng(0)
    low, high = random_speaker("m1", "en-us", rng), random_speaker("f1", "en-us", rng)
    a, again, b = speech_clip(low, text, 1), speech_clip(low, text, 1), speech_clip(high, text, 1)
    assert np.array_equal(a, again) and len(a) > RATE / 2
    n = min(len(a), len(b))
    assert abs(np.corrcoef(a[:n], b[:n])[0, 1]) < 0.5


@pytest.mark.parametrize(("size", "t60"), [((4.0, 3.5, 2.6), 0.25), ((6.0, 5.0, 3.0), 0.4), ((8.0, 6.0, 3.4), 0.6)])
def test_a_rooms_measured_reverberation_is_near_the_requested_one(size, t60):
    """Schroeder's integral written out here, over a few places; shoeboxes scatter, so within a third."""
    measured = []
    for seed in range(4):
        response = impulse_response(Room(size, t60), seed).astype(np.float64)
        decay = np.cumsum(response[::-1] ** 2)[::-1]
        decay = 10 * np.log10(decay / decay[0])
        first, last = np.argmax(decay < -5), np.argmax(decay < -25)
        measured.append(3 * (last - first) / RATE)
    assert np.mean(measured) == pytest.approx(t60, rel=0.33)


def test_the_direct_path_is_the_first_and_largest_sample():
    for seed in range(3):
        response = impulse_response(Room((5.0, 4.0, 2.8), 0.3), seed)
        assert np.argmax(np.abs(response)) == 0 and response[0] == pytest.approx(0.9)
