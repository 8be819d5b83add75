"""Procedural noises of different kinds, each a pure function of a random generator and a duration.

Splits share no kind (`KINDS`): a model tested on wind, rain and dishes has heard none of them in training.
Every recipe is our choice. Add a kind by writing one function and listing it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kdse.data.synthesis.sentences import LANGUAGES, sentences_of
from kdse.data.synthesis.sound import (
    SAMPLE_RATE_HZ,
    add_at,
    envelope,
    event_times,
    harmonics,
    modal_hit,
    shaped_noise,
    slow_random,
)
from kdse.data.synthesis.speech import VARIANTS, at_level, random_speaker, read_aloud
from kdse.errors import UserError

Rng = np.random.Generator


def colored(rng: Rng, seconds: float) -> NDArray:
    """Stationary hiss: power falls as 1/f^e with e between 0 (white), 1 (pink) and 2 (brown)."""
    exponent = rng.uniform(0, 2)
    return shaped_noise(rng, seconds, lambda f: np.maximum(f, 40) ** (-exponent / 2))


def engine(rng: Rng, seconds: float) -> NDArray:
    """An engine: a harmonic hum whose revolutions wander, with two body resonances and a little exhaust noise."""
    revolutions_hz = rng.uniform(28, 75) * slow_random(rng, seconds, 0.3, 0.8, 1.25)
    resonances_hz, decay = rng.uniform(120, 900, 2), rng.uniform(0.4, 0.9)

    def amplitude(order: int) -> float:
        frequency = order * 50.0
        bumps = sum(np.exp(-(((frequency - r) / 120) ** 2)) for r in resonances_hz)
        return float((1 + 3 * bumps) * order**-decay)

    hum = harmonics(rng, revolutions_hz, [amplitude(order) for order in range(1, 41)])
    exhaust = shaped_noise(rng, seconds, lambda f: 1 / (1 + (f / 500) ** 2))
    return hum / hum.std() + rng.uniform(0.1, 0.4) * exhaust / exhaust.std()


def babble(rng: Rng, seconds: float) -> NDArray:
    """Many people at once: 6 to 14 synthetic talkers of the training voices, near and far."""
    length = round(seconds * SAMPLE_RATE_HZ)
    mixture = np.zeros(length)
    for _ in range(int(rng.integers(6, 15))):
        language = LANGUAGES[rng.integers(len(LANGUAGES))]
        speaker = random_speaker(str(rng.choice(VARIANTS["train"])), language, rng)
        texts = sentences_of(language, "train")
        gain = 10 ** (rng.uniform(-12, 0) / 20)
        position = -int(rng.integers(2 * SAMPLE_RATE_HZ))
        while position < length:
            spoken = read_aloud(speaker, texts[rng.integers(len(texts))], int(rng.integers(2**62)))
            add_at(mixture, gain * spoken / spoken.std(), position)
            position += len(spoken) + int(rng.uniform(0.1, 0.5) * SAMPLE_RATE_HZ)
    return mixture


def keyboard(rng: Rng, seconds: float) -> NDArray:
    """Typing: a click and a low thud for each key going down, a softer click as it comes up, in bursts."""
    hum = shaped_noise(rng, seconds, lambda f: 1 / (1 + f / 200))
    sound = 0.01 * hum / hum.std()
    color_hz = rng.uniform(1800, 4500)
    for time in event_times(rng, seconds, rng.uniform(5, 10) * slow_random(rng, seconds, 0.7, 0.2, 1.6)):
        click = modal_hit(rng, color_hz * rng.uniform(0.7, 1.4, 5), rng.uniform(0.003, 0.008, 5), noise=1.0)
        thud = modal_hit(rng, rng.uniform(120, 320, 2), rng.uniform(0.01, 0.02, 2), noise=0.0)
        loudness = rng.uniform(0.5, 1.0)
        add_at(sound, loudness * click, round(time * SAMPLE_RATE_HZ))
        add_at(sound, loudness * 0.6 * thud, round(time * SAMPLE_RATE_HZ))
        release = round((time + rng.uniform(0.06, 0.12)) * SAMPLE_RATE_HZ)
        add_at(sound, loudness * rng.uniform(0.2, 0.5) * click, release)
    return sound


def siren(rng: Rng, seconds: float) -> NDArray:
    """A vehicle siren: a tone with harmonics sweeping up and down, slowly (wail) or fast (yelp), coming and going."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    period = rng.choice([rng.uniform(0.25, 0.5), rng.uniform(2.0, 5.0)])
    low_hz, high_hz = rng.uniform(450, 700), rng.uniform(1000, 1600)
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * time / period + rng.uniform(0, 2 * np.pi))
    tone = harmonics(rng, low_hz + (high_hz - low_hz) * sweep, [1, 0.5, 0.35, 0.2, 0.1])
    street = shaped_noise(rng, seconds, lambda f: 1 / (1 + f / 300))
    return tone * slow_random(rng, seconds, 0.2, 0.3, 1.0) + 0.1 * street / street.std()


def crackle(rng: Rng, seconds: float) -> NDArray:
    """A scratched record or a fire: single impulses of very different size over a faint hiss."""
    hiss = shaped_noise(rng, seconds, lambda f: f / (f + 500))
    sound = 0.02 * hiss / hiss.std()
    for time in event_times(rng, seconds, np.full(1, rng.uniform(15, 60))):
        frequencies = rng.uniform(800, 7000, 3)
        pop = modal_hit(rng, frequencies, np.full(3, rng.uniform(0.0003, 0.0015)), noise=0.5)
        add_at(sound, rng.choice([-1, 1]) * rng.pareto(2.0) * pop, round(time * SAMPLE_RATE_HZ))
    return np.tanh(sound / 4)


def traffic(rng: Rng, seconds: float) -> NDArray:
    """A road: cars passing by, tyre noise brighter and louder the nearer they are, over a distant rumble."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    rumble = shaped_noise(rng, seconds, lambda f: 1 / (1 + (f / 90) ** 1.5))
    sound = rng.uniform(0.1, 0.25) * rumble / rumble.std()
    for _ in range(max(1, round(seconds * rng.uniform(0.15, 0.4)))):
        distance, speed, passing = rng.uniform(3, 12), rng.uniform(8, 25), rng.uniform(0, seconds)
        nearness = distance**2 / (distance**2 + (speed * (time - passing)) ** 2)
        tyres = shaped_noise(rng, seconds, lambda f: (f / 700) / (1 + (f / 700) ** 2.6))
        body = shaped_noise(rng, seconds, lambda f: 1 / (1 + (f / 150) ** 2))
        passing_by = nearness * tyres / tyres.std() + np.sqrt(nearness) * 0.4 * body / body.std()
        sound += 3 / distance * passing_by
    return sound


def music(rng: Rng, seconds: float) -> NDArray:
    """Plucked chords and a melody over a beat, in a random key and tempo."""
    length = round(seconds * SAMPLE_RATE_HZ)
    sound = np.zeros(length)
    key_hz, beat = rng.uniform(110, 220), 60 / rng.uniform(80, 150)
    major = np.array([0, 2, 4, 5, 7, 9, 11])
    brightness = rng.uniform(0.8, 1.8)

    def note(degree: int, octave: int, decay_seconds: float) -> NDArray:
        frequency = key_hz * 2 ** (octave + degree // 7 + major[degree % 7] / 12)
        overtones = frequency * np.arange(1, 9)
        audible = overtones < 7500
        decays = decay_seconds / np.arange(1, 9)[audible] ** 0.5
        amplitudes = np.arange(1, 9)[audible] ** -brightness
        return modal_hit(rng, overtones[audible], decays, noise=0.02, amplitudes=amplitudes)

    for position, start in enumerate(np.arange(0, seconds, beat)):
        at = round(start * SAMPLE_RATE_HZ)
        if position % 4 == 0:
            root = int(rng.choice([0, 3, 4, 5]))
            for degree in (root, root + 2, root + 4):
                add_at(sound, 0.6 * note(degree, 0, 0.8), at)
        for half in range(2):
            if rng.random() < 0.6:
                add_at(sound, note(int(rng.integers(8)), 1, 0.3), at + round(half * beat / 2 * SAMPLE_RATE_HZ))
        add_at(sound, 0.8 * modal_hit(rng, np.array([60.0, 85.0]), np.array([0.08, 0.05]), noise=0.3), at)
    return sound


def insects(rng: Rng, seconds: float) -> NDArray:
    """Crickets and cicadas: several animals, each a high tone pulsed in groups at its own rhythm."""
    length = round(seconds * SAMPLE_RATE_HZ)
    time = np.arange(length) / SAMPLE_RATE_HZ
    air = shaped_noise(rng, seconds, lambda f: 1 / (1 + f / 1000))
    sound = 0.05 * air / air.std()
    for _ in range(int(rng.integers(2, 6))):
        pulse_hz, group_seconds = rng.uniform(25, 60), rng.uniform(0.3, 1.2)
        pulses = np.clip(np.sin(2 * np.pi * pulse_hz * time), 0, 1) ** 2
        singing = (time / group_seconds + rng.random()) % 1 < rng.uniform(0.3, 0.9)
        carrier = np.sin(2 * np.pi * rng.uniform(2800, 6000) * time + rng.uniform(0, 6))
        sound += rng.uniform(0.3, 1.0) * carrier * pulses * singing
    return sound


def fan(rng: Rng, seconds: float) -> NDArray:
    """A fan or ventilation: broadband flow noise beating with the blades, and a few steady tones of the motor."""
    corner_hz = rng.uniform(300, 1200)
    flow = shaped_noise(rng, seconds, lambda f: 1 / (1 + (f / corner_hz) ** 1.5))
    blades_hz = rng.uniform(12, 40)
    time = np.arange(len(flow)) / SAMPLE_RATE_HZ
    beating = 1 + rng.uniform(0.2, 0.6) * np.sin(2 * np.pi * blades_hz * time)
    motor = harmonics(rng, np.full(len(flow), rng.choice([50.0, 60.0]) * 2), rng.uniform(0, 1, 6))
    return flow / flow.std() * beating + rng.uniform(0.1, 0.4) * motor / motor.std()


def alarm(rng: Rng, seconds: float) -> NDArray:
    """A beeper: hard tones switched on and off in a fixed pattern."""
    length = round(seconds * SAMPLE_RATE_HZ)
    time = np.arange(length) / SAMPLE_RATE_HZ
    period = rng.uniform(0.5, 1.5)
    beeps, beep_seconds = int(rng.integers(1, 5)), rng.uniform(0.05, 0.1)
    within = time % period
    on = sum((within >= 2 * i * beep_seconds) & (within < (2 * i + 1) * beep_seconds) for i in range(beeps))
    smooth = np.convolve(np.asarray(on, dtype=float), np.ones(80) / 80, mode="same")
    tone = harmonics(rng, np.full(length, rng.uniform(1200, 3000)), [1, 0.1, 0.4, 0.05, 0.2])
    room = shaped_noise(rng, seconds, lambda f: 1 / (1 + f / 200))
    return tone * smooth + 0.03 * room / room.std()


def wind(rng: Rng, seconds: float) -> NDArray:
    """Wind: gusts of low-pass noise, brighter when strong, with a howl that follows the gusts."""
    gusts = slow_random(rng, seconds, 0.6, 0.0, 1.0) ** 2 + 0.1
    calm = shaped_noise(rng, seconds, lambda f: 1 / (1 + (f / 80) ** 2))
    strong = shaped_noise(rng, seconds, lambda f: 1 / (1 + (f / 600) ** 1.8))
    howl_hz = rng.uniform(350, 800)
    howl = shaped_noise(rng, seconds, lambda f: np.exp(-(((f - howl_hz) / 40) ** 2)))
    return calm / calm.std() * gusts + strong / strong.std() * gusts**2 + 0.4 * howl / howl.std() * gusts**3


def rain(rng: Rng, seconds: float) -> NDArray:
    """Rain: a bright steady hiss of far drops and hundreds of single near ones a second, harder and softer."""
    hiss = shaped_noise(rng, seconds, lambda f: (f / 2500) / (1 + (f / 2500) ** 2))
    sound = hiss / hiss.std() * slow_random(rng, seconds, 0.2, 0.6, 1.0)
    for time in event_times(rng, seconds, np.full(1, rng.uniform(80, 200))):
        drop = modal_hit(rng, rng.uniform(1000, 6500, 1), rng.uniform(0.002, 0.008, 1), noise=0.2)
        add_at(sound, 1.5 * rng.lognormal(0, 0.6) * drop, round(time * SAMPLE_RATE_HZ))
    return sound


def dishes(rng: Rng, seconds: float) -> NDArray:
    """Dishes and cutlery: hits that ring in a few inharmonic partials, each piece with its own, in clusters."""
    room = shaped_noise(rng, seconds, lambda f: 1 / (1 + f / 400))
    sound = 0.02 * room / room.std()
    pieces = []
    for _ in range(6):
        partials_hz = np.sort(rng.uniform(600, 7200, 7))
        pieces.append((partials_hz, rng.uniform(0.03, 0.25) * (600 / partials_hz) ** 0.3))
    for time in event_times(rng, seconds, rng.uniform(2, 6) * slow_random(rng, seconds, 1.0, 0.1, 1.5)):
        partials_hz, decays = pieces[rng.integers(len(pieces))]
        hit = modal_hit(rng, partials_hz, decays, noise=0.6)
        add_at(sound, rng.lognormal(-0.5, 0.6) * hit, round(time * SAMPLE_RATE_HZ))
    return sound


#: The recipes of each split by name; no kind is in two of them.
KINDS: dict[str, dict[str, Callable[[Rng, float], NDArray]]] = {
    split: {recipe.__name__: recipe for recipe in recipes}
    for split, recipes in {
        "train": (colored, engine, babble, keyboard, siren, crackle, traffic, music, insects),
        "valid": (fan, alarm),
        "test": (wind, rain, dishes),
    }.items()
}


def noise(kind: str, seed: int, seconds: float) -> NDArray[np.float32]:
    """A noise of one kind, [N] at 16 kHz, faded in and out over 10 ms, RMS -26 dBFS, peak at most 0.9.

    Sounds of few sharp events are held below -26 dBFS by their peaks.

    Raises:
        ValueError: ``kind`` is not among `KINDS`.
    """
    recipes = KINDS["train"] | KINDS["valid"] | KINDS["test"]
    if kind not in recipes:
        raise UserError(f"unknown noise kind {kind!r}; there are {', '.join(sorted(recipes))}")
    return at_level(envelope(recipes[kind](np.random.default_rng(seed), seconds), 0.01), -26.0)
