"""Simulated rooms: impulse responses of shoeboxes by the image source method (pyroomacoustics)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdse.data.synthesis.sound import SAMPLE_RATE_HZ
from kdse.machine.packages import required

SPEED_OF_SOUND = 343.0
T60_RANGE_SECONDS = (0.15, 0.7)
#: Waves along the floor of a flat shoebox outlive what Eyring assumes of a diffuse field: image-source responses of
#: these rooms measured 1.2 times (median; 1.05 to 1.9) the reverberation time put into his formula.
LONGER_THAN_EYRING = 1.2


@dataclass(frozen=True)
class Room:
    """A shoebox room in metres and the reverberation time its walls are chosen for; measured ones scatter around it."""

    size: tuple[float, float, float]
    t60_seconds: float


def random_room(rng: np.random.Generator) -> Room:
    """A room between a small office and a lecture room; larger rooms reverberate longer.

    T60 is drawn log-uniformly within `T60_RANGE_SECONDS`, but not below what the volume allows with absorbing walls
    (an absorption of 0.7), our choice.
    """
    size = (float(rng.uniform(3, 9)), float(rng.uniform(2.5, 6.5)), float(rng.uniform(2.3, 3.6)))
    low = max(T60_RANGE_SECONDS[0], LONGER_THAN_EYRING * _eyring_t60(size, 0.7))
    return Room(size, float(np.exp(rng.uniform(np.log(low), np.log(T60_RANGE_SECONDS[1])))))


def impulse_response(room: Room, seed: int) -> NDArray[np.float32]:
    """The response between a random talker and a random microphone in the room, [N] at 16 kHz.

    The direct path is exactly sample 0: the distance is a whole number of samples of travel (0.4 to 2.5 m), so that
    the band-limited direct impulse is a single sample and nothing precedes it. It is also the largest sample and
    scaled to 0.9; places where reflections that coincide would exceed it are drawn again.
    """
    rng = np.random.default_rng(seed)
    while True:
        response = _simulate(room, rng)
        if np.argmax(np.abs(response)) == 0:
            return (0.9 * response / response[0]).astype(np.float32)


def _simulate(room: Room, rng: np.random.Generator) -> NDArray:
    pyroomacoustics = required("pyroomacoustics")
    size = np.array(room.size)
    microphone, delay, direction = _place(size, rng)
    talker = microphone + direction * delay * SPEED_OF_SOUND / SAMPLE_RATE_HZ
    # One thread: the C++ sums in thread order, and the last bit would depend on the number of cores.
    pyroomacoustics.constants.set("num_threads", 1)
    pyroomacoustics.constants.set("c", SPEED_OF_SOUND)
    absorption = _eyring_absorption(room.size, room.t60_seconds / LONGER_THAN_EYRING)
    order = int(np.ceil(SPEED_OF_SOUND * room.t60_seconds / size.min()))
    shoebox = pyroomacoustics.ShoeBox(
        size, fs=SAMPLE_RATE_HZ, materials=pyroomacoustics.Material(absorption), max_order=order
    )
    shoebox.add_source(talker)
    shoebox.add_microphone(microphone)
    shoebox.compute_rir()
    response = np.asarray(shoebox.rir[0][0], dtype=np.float64)
    start = delay + pyroomacoustics.constants.get("frac_delay_length") // 2
    return response[start : start + round(1.2 * room.t60_seconds * SAMPLE_RATE_HZ)]


def measured_t60_seconds(response: NDArray) -> float:
    """Reverberation time from Schroeder's backward integral: the slope from -5 to -25 dB, extended to 60 dB."""
    energy = np.cumsum(np.square(response[::-1], dtype=np.float64))[::-1]
    decay_db = 10 * np.log10(energy / energy[0] + 1e-12)
    first, last = np.argmax(decay_db <= -5), np.argmax(decay_db <= -25)
    slope = np.polyfit(np.arange(first, last) / SAMPLE_RATE_HZ, decay_db[first:last], 1)[0]
    return float(-60 / slope)


def _place(size: NDArray, rng: np.random.Generator) -> tuple[NDArray, int, NDArray]:
    """A microphone, a travel time in samples and a direction to the talker; both 0.4 m or more from every wall."""
    margin, samples_per_metre = 0.4, SAMPLE_RATE_HZ / SPEED_OF_SOUND
    while True:
        microphone = rng.uniform(margin, size - margin)
        microphone[2] = rng.uniform(0.8, 1.6)
        delay = int(rng.integers(round(0.4 * samples_per_metre), round(2.5 * samples_per_metre)))
        direction = rng.normal(size=3) * (1, 1, 0.2)
        direction /= np.linalg.norm(direction)
        talker = microphone + direction * delay / samples_per_metre
        if np.all(talker > margin) and np.all(talker < size - margin):
            return microphone, delay, direction


def _eyring_absorption(size: tuple[float, float, float], t60_seconds: float) -> float:
    """Energy absorption of all walls: T60 = 24 ln(10) V / (-c S ln(1 - a)) (Eyring 1930)."""
    x, y, z = size
    volume, surface = x * y * z, 2 * (x * y + y * z + x * z)
    return float(1 - np.exp(-24 * np.log(10) * volume / (SPEED_OF_SOUND * surface * t60_seconds)))


def _eyring_t60(size: tuple[float, float, float], absorption: float) -> float:
    """The same formula solved for T60 in seconds."""
    x, y, z = size
    volume, surface = x * y * z, 2 * (x * y + y * z + x * z)
    return float(-24 * np.log(10) * volume / (SPEED_OF_SOUND * surface * np.log(1 - absorption)))
