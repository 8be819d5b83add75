"""Building blocks of the procedural noises: shaped noise, slow control curves, events, ringing hits, harmonic tones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16000


def shaped_noise(rng: np.random.Generator, seconds: float, gain: Callable[[NDArray], NDArray]) -> NDArray:
    """Stationary Gaussian noise, [N], whose amplitude spectrum follows ``gain(frequency_hz)``; nothing below 20 Hz."""
    length = round(seconds * SAMPLE_RATE_HZ)
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE_HZ)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    return np.fft.irfft(spectrum * np.where(frequency < 20, 0.0, gain(frequency)), length)


def slow_random(rng: np.random.Generator, seconds: float, rate_hz: float, low: float, high: float) -> NDArray:
    """A smooth random curve, [N], between ``low`` and ``high``: a new direction ``rate_hz`` times a second."""
    length = round(seconds * SAMPLE_RATE_HZ)
    knots = rng.uniform(low, high, 2 + int(np.ceil(seconds * rate_hz)))
    position = np.arange(length) / SAMPLE_RATE_HZ * rate_hz
    before = position.astype(int)
    blend = 0.5 - 0.5 * np.cos(np.pi * (position - before))
    return knots[before] * (1 - blend) + knots[before + 1] * blend


def event_times(rng: np.random.Generator, seconds: float, rate_hz: NDArray) -> NDArray:
    """Times in seconds of a Poisson process with a constant ([1]) or changing ([N], one value a sample) rate."""
    fastest = float(np.max(rate_hz))
    times = np.sort(rng.uniform(0, seconds, rng.poisson(fastest * seconds)))
    rate_then = rate_hz[np.minimum((times / seconds * len(rate_hz)).astype(int), len(rate_hz) - 1)]
    return times[rng.random(len(times)) * fastest < rate_then]


def modal_hit(
    rng: np.random.Generator,
    frequencies_hz: NDArray,
    decays_seconds: NDArray,
    *,
    noise: float,
    amplitudes: NDArray | None = None,
) -> NDArray:
    """Something struck, [N]: decaying sinusoids of random phase and size, and 3 ms of contact noise.

    ``decays_seconds`` are times to fall to 1/e; ``amplitudes`` default to random ones.
    """
    length = round(min(5 * float(np.max(decays_seconds)) + 0.003, 3.0) * SAMPLE_RATE_HZ) + 1
    time = np.arange(length) / SAMPLE_RATE_HZ
    sizes = rng.uniform(0.2, 1.0, len(frequencies_hz)) if amplitudes is None else amplitudes
    phases = rng.uniform(0, 2 * np.pi, len(frequencies_hz))
    hit = np.zeros(length)
    for size, frequency, decay, phase in zip(sizes, frequencies_hz, decays_seconds, phases, strict=True):
        hit += size * np.exp(-time / decay) * np.sin(2 * np.pi * frequency * time + phase)
    return hit + noise * rng.standard_normal(length) * np.exp(-time / 0.001)


def harmonics(rng: np.random.Generator, fundamental_hz: NDArray, amplitudes: Sequence[float] | NDArray) -> NDArray:
    """A tone whose fundamental follows ``fundamental_hz`` [N], with harmonics 1, 2, ... of the given sizes, [N].

    Harmonics above 7.6 kHz are left out, so that nothing aliases.
    """
    phase = 2 * np.pi * np.cumsum(fundamental_hz) / SAMPLE_RATE_HZ
    tone = np.zeros(len(fundamental_hz))
    for order, amplitude in enumerate(amplitudes, start=1):
        start = rng.uniform(0, 2 * np.pi)
        if order * float(np.max(fundamental_hz)) < 7600:
            tone += amplitude * np.sin(order * phase + start)
    return tone


def add_at(sound: NDArray, event: NDArray, position: int) -> None:
    """Adds ``event`` [M] to ``sound`` [N] in place from sample ``position`` on; what falls outside is dropped."""
    first, last = max(position, 0), min(position + len(event), len(sound))
    if first < last:
        sound[first:last] += event[first - position : last - position]


def envelope(wave: NDArray, fade_seconds: float) -> NDArray:
    """The wave with raised-cosine fades at both ends."""
    count = min(round(fade_seconds * SAMPLE_RATE_HZ), len(wave) // 2)
    fade = 0.5 - 0.5 * np.cos(np.pi * (np.arange(count) + 0.5) / max(count, 1))
    faded = np.array(wave, dtype=np.float64)
    faded[:count] *= fade
    faded[len(faded) - count :] *= fade[::-1]
    return faded
