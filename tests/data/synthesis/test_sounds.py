"""Noises of different kinds differ, voices differ, and simulated rooms have the reverberation that was asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import median_filter
from scipy.signal import welch

from kdse.data.synthesis import rooms
from kdse.data.synthesis.noises import KINDS, noise
from kdse.data.synthesis.rooms import Room, impulse_response
from kdse.data.synthesis.sentences import LANGUAGES, sentences_of
from kdse.data.synthesis.speech import Speaker, read_aloud, speech_clip

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


def test_an_unheard_noise_is_recognised_as_its_kind():
    """A nearest-mean classifier, two draws to learn a kind and two to try: chance is 1 in 14."""
    known = {name: np.mean([fingerprint(noise(name, seed, 4.0)) for seed in (0, 1)], axis=0) for name in NAMES}
    right = [
        name == min(known, key=lambda other: np.linalg.norm(known[other] - heard))
        for name in NAMES
        for heard in (fingerprint(noise(name, seed, 4.0)) for seed in (10, 11))
    ]
    assert np.mean(right) > 0.75


def test_the_kinds_differ_in_brightness_modulation_and_tonality():
    def character(name: str) -> tuple[float, float, float]:
        """Spectral centroid in Hz, spread of the 10 ms level over its mean, strongest line in dB."""
        values = []
        for seed in range(3):
            wave = noise(name, seed, 5.0).astype(np.float64)
            frequency, power = welch(wave, RATE, nperseg=1024)
            level = np.sqrt(np.square(wave.reshape(-1, 160)).mean(1))
            above = 10 * np.log10((power / median_filter(power, 65)).max())  # over the median of 1 kHz around it
            values.append((float((frequency * power).sum() / power.sum()), level.std() / level.mean(), above))
        return tuple(np.median(values, axis=0))

    of = {name: character(name) for name in NAMES}
    dark, bright = ("engine", "traffic", "wind", "music"), ("crackle", "insects", "rain", "keyboard")
    assert max(of[name][0] for name in dark) < min(of[name][0] for name in bright)
    steady, sudden = ("colored", "engine", "fan", "rain"), ("keyboard", "crackle", "alarm", "dishes")
    assert 2 * max(of[name][1] for name in steady) < min(of[name][1] for name in sudden)
    tonal, flat = ("insects", "alarm", "dishes", "music"), ("colored", "crackle", "rain", "fan", "babble")
    assert min(of[name][2] for name in tonal) > max(of[name][2] for name in flat) + 6


@pytest.mark.parametrize("name", NAMES)
def test_a_noise_is_a_pure_function_of_kind_and_seed_at_a_safe_level(name):
    one, same, other = noise(name, 1, 2.0), noise(name, 1, 2.0), noise(name, 2, 2.0)
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert len(one) == 2 * RATE and np.isfinite(one).all() and np.abs(one).max() <= 0.9001
    assert 20 * np.log10(one.std()) < -25.5


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(ValueError, match="wind"):
        noise("silence", 0, 1.0)


TEXT = (sentences_of("en-us", "train")[0], sentences_of("en-us", "train")[1])
PERSON = Speaker("m1", "en-us", rate_wpm=170, pitch=45, pitch_range=50, vocal_tract=1.0)


def pitch_hz(wave: np.ndarray) -> float:
    """Median over loud 40 ms frames of the lag of the largest autocorrelation between 60 and 400 Hz."""
    frames = wave[: len(wave) // 640 * 640].reshape(-1, 640).astype(np.float64)
    loud = frames[frames.std(1) > np.median(frames.std(1))]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(loud, 2048)) ** 2)[:, RATE // 400 : RATE // 60]
    return RATE / (RATE // 400 + float(np.median(correlation.argmax(1))))


def spectrum_db(wave: np.ndarray) -> np.ndarray:
    """Long-term level in 24 bands, without the overall level."""
    _, power = welch(wave, RATE, nperseg=512)
    bands = 10 * np.log10([b.mean() for b in np.array_split(power[2:], 24)])
    return bands - bands.mean()


def test_the_same_person_text_and_seed_give_the_same_bytes_whatever_was_spoken_before():
    one = speech_clip(PERSON, TEXT, 1)
    other = speech_clip(replace(PERSON, variant="f1"), TEXT, 1)
    assert np.array_equal(speech_clip(PERSON, TEXT, 1), one) and not np.array_equal(other[: len(one)], one)
    assert len(one) > 3 * RATE and np.isfinite(one).all() and np.abs(one).max() <= 0.9001


def test_two_voices_differ_more_than_two_readings_by_one_voice():
    readings = {v: [read_aloud(replace(PERSON, variant=v), TEXT[0], s) for s in (1, 2)] for v in ("m1", "f2", "klatt")}
    spectra = {voice: [spectrum_db(wave) for wave in waves] for voice, waves in readings.items()}
    within = max(np.linalg.norm(a - b) for a, b in spectra.values())
    between = min(np.linalg.norm(spectra[v][0] - spectra[w][0]) for v, w in combinations(spectra, 2))
    assert between > 1.5 * within


def test_pitch_rate_and_vocal_tract_do_what_they_say():
    def read(**changes: Any) -> np.ndarray:
        return read_aloud(replace(PERSON, **changes), TEXT[0], 1)

    assert pitch_hz(read(pitch=65)) > 1.1 * pitch_hz(read(pitch=35))
    assert len(read(rate_wpm=135)) > 1.2 * len(read(rate_wpm=195))
    assert len(read(vocal_tract=1.06)) == pytest.approx(1.06 / 0.94 * len(read(vocal_tract=0.94)), rel=0.02)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_spoken(language):
    waves = [read_aloud(replace(PERSON, language=language), t, 1) for t in sentences_of(language, "test")[:2]]
    assert all(0.8 * RATE < len(w) < 12 * RATE and w.std() > 0.01 for w in waves)


def test_an_unknown_voice_is_named():
    with pytest.raises(ValueError, match="xx-nowhere"):
        read_aloud(replace(PERSON, language="xx-nowhere"), "Hello.", 1)


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


def test_walls_and_distance_come_from_the_room(monkeypatch):
    """The first reflections of a response are where mirror images of the talker put them."""
    room, places = Room((6.0, 5.0, 3.0), 0.3), []
    real = rooms._place

    def remembered(size, rng):
        places.append(real(size, rng))
        return places[-1]

    monkeypatch.setattr(rooms, "_place", remembered)
    response = np.abs(impulse_response(room, 4))
    microphone, delay, direction = places[-1]
    talker = microphone + direction * delay * 343.0 / RATE
    for axis in range(3):
        for wall in (0.0, room.size[axis]):
            image = talker.copy()
            image[axis] = 2 * wall - talker[axis]
            arrival = np.linalg.norm(image - microphone) / 343.0 * RATE - delay
            near = response[max(0, int(arrival) - 1) : int(arrival) + 3].max()
            assert near > 0.3 * 0.9 * delay / (arrival + delay)  # spherical spreading, walls that absorb under 90 %
