"""Speech of the embedded corpus: espeak-ng driven offline through ctypes, one speaker a voice variant.

espeak-ng comes as the wheel ``espeakng-loader`` (library and voices). It is a formant synthesiser: intelligible and
varied, but cleaner and more regular than people; results on it say little about real recordings.
"""

from __future__ import annotations

import ctypes
import math
import threading
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from kdse.data.synthesis.sound import SAMPLE_RATE_HZ
from kdse.errors import UserError
from kdse.machine.packages import required

ESPEAK_RATE_HZ = 22050

#: espeak voice variants by split: a variant is a person (glottal source, formants, breath), so the splits share none.
#: Whispering, creaking, robot and child variants and those that clip inside espeak are left out.
VARIANTS = {
    split: tuple(names.split())
    for split, names in {
        "train": (
            "f1 f2 f4 m1 m2 m4 m5 m7 klatt klatt3 klatt5 Alex Andrea Annie Diogo Gene Hugo Lee Mario Mike adam "
            "anika belinda boris david edward grandma gustave john max miguel pablo quincy steph"
        ),
        "valid": "f3 m3 klatt2 Alicia Michael marcelo shelby",
        "test": "f5 m6 m8 klatt4 Andy Henrique aunty benjamin linda norbert travis victor",
    }.items()
}
FEMALE = "Alicia Andrea anika Annie aunty belinda f1 f2 f3 f4 f5 grandma linda shelby steph"

_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_DONT_EXIT = 0x8000
_ONE_AT_A_TIME = threading.Lock()
_REINSTALL = "reinstall it: pip install --force-reinstall espeakng-loader"


@dataclass(frozen=True)
class Speaker:
    """One synthetic person. ``vocal_tract`` above 1 plays the voice slower: lower formants, a longer vocal tract."""

    variant: str
    language: str
    rate_wpm: int
    pitch: int
    pitch_range: int
    vocal_tract: float

    @property
    def name(self) -> str:
        """Unique within the corpus and usable in a file name."""
        return f"{self.language}_{self.variant}"

    @property
    def gender(self) -> str:
        return "F" if self.variant in FEMALE.split() else "M"


def random_speaker(variant: str, language: str, rng: np.random.Generator) -> Speaker:
    """A speaker of the given voice with its own rate, pitch, liveliness and vocal tract length."""
    rate_wpm, pitch, pitch_range = (int(rng.integers(*bounds)) for bounds in ((135, 200), (35, 66), (35, 76)))
    return Speaker(variant, language, rate_wpm, pitch, pitch_range, float(np.round(rng.uniform(0.94, 1.06), 3)))


def expected_seconds(text: str, speaker: Speaker) -> float:
    """Roughly how long `read_aloud` takes for this text: used to plan a corpus of a given size."""
    return len(text) / 17.6 * 170 / speaker.rate_wpm * speaker.vocal_tract


def espeak(text: str, voice: str, *, rate_wpm: int, pitch: int, pitch_range: int, seed: int) -> NDArray[np.int16]:
    """What espeak-ng says, [N] at 22.05 kHz: a pure function of its arguments.

    espeak keeps oscillator phases and random numbers from one call to the next, so each call loads the library anew
    (4 ms); otherwise a clip would depend on what the same process had spoken before.

    Raises:
        ValueError: espeak cannot start, does not know the language of ``voice``, or stays silent.
    """
    import _ctypes

    espeakng_loader = required("espeakng_loader")
    pieces: list[bytes] = []

    def collect(samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(collect)
    with _ONE_AT_A_TIME:
        try:
            library = ctypes.CDLL(espeakng_loader.get_library_path())
        except OSError as error:
            raise UserError(f"espeak-ng cannot be loaded ({error}); {_REINSTALL}") from None
        try:
            data = espeakng_loader.get_data_path().encode()
            if library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT) != ESPEAK_RATE_HZ:
                raise UserError(f"espeak-ng did not start; {_REINSTALL}")
            library.espeak_SetSynthCallback(callback)
            library.espeak_ng_SetRandSeed(ctypes.c_long(seed % 2**31))
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise UserError(f"espeak-ng has no voice {voice!r}")
            # Half volume: several variants clip inside espeak at its default of 100.
            for parameter, value in ((_RATE, rate_wpm), (_VOLUME, 50), (_PITCH, pitch), (_RANGE, pitch_range)):
                library.espeak_SetParameter(parameter, int(value), 0)
            encoded = text.encode()
            library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, _CHARS_UTF8, None, None)
            library.espeak_Terminate()
        finally:
            unload = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary")  # noqa: B009 (Windows)
            unload(library._handle)
    if not pieces:
        raise UserError(f"espeak-ng said nothing for {text!r} in voice {voice!r}")
    return np.frombuffer(b"".join(pieces), dtype=np.int16)


def read_aloud(speaker: Speaker, text: str, seed: int) -> NDArray[np.float32]:
    """One sentence by one speaker, [N] at 16 kHz, silence trimmed at both ends, peak below 1.

    Rate, pitch and liveliness vary a little with ``seed``, as a person's do from sentence to sentence (our choice:
    8 percent in rate, 4 points of espeak's 0 to 99 scale in pitch).
    """
    from scipy.signal import resample_poly

    rng = np.random.default_rng(seed)
    spoken = espeak(
        text,
        f"{speaker.language}+{speaker.variant}",
        rate_wpm=round(speaker.rate_wpm * rng.uniform(0.92, 1.08)),
        pitch=int(np.clip(speaker.pitch + rng.integers(-4, 5), 0, 99)),
        pitch_range=int(np.clip(speaker.pitch_range + rng.integers(-8, 9), 0, 99)),
        seed=int(rng.integers(2**31)),
    )
    ratio = (Fraction(SAMPLE_RATE_HZ, ESPEAK_RATE_HZ) * Fraction(speaker.vocal_tract)).limit_denominator(500)
    wave = resample_poly(spoken.astype(np.float64) / 32768, ratio.numerator, ratio.denominator)
    return _trim(wave).astype(np.float32)


def speech_clip(speaker: Speaker, texts: tuple[str, ...], seed: int) -> NDArray[np.float32]:
    """Several sentences with pauses between them as one clip, [N] at 16 kHz, RMS -26 dBFS, peak at most 0.9.

    Each clip has its own slow change of level (2 dB) and its own gentle spectral tilt (3 dB an octave at most around
    1 kHz, levelling off), like a person moving in front of a microphone.
    """
    rng = np.random.default_rng(seed)

    def pause(shortest: float, longest: float) -> NDArray:
        return np.zeros(round(rng.uniform(shortest, longest) * SAMPLE_RATE_HZ))

    pieces: list[NDArray] = [pause(0.05, 0.25)]
    for text in texts:
        pieces += [read_aloud(speaker, text, int(rng.integers(2**62))), pause(0.15, 0.6)]
    wave = np.concatenate(pieces)
    knots = rng.uniform(-1.0, 1.0, 2 + len(wave) // (2 * SAMPLE_RATE_HZ))
    gain_db = np.interp(np.linspace(0, len(knots) - 1, len(wave)), np.arange(len(knots)), knots)
    wave = _tilt(wave * 10 ** (gain_db / 20), rng.uniform(-3.0, 3.0))
    return at_level(wave, -26.0)


def at_level(wave: NDArray, rms_dbfs: float, peak: float = 0.9) -> NDArray[np.float32]:
    """The wave scaled to an RMS level, or lower where that would bring its largest sample above ``peak``."""
    rms = math.sqrt(float(np.mean(np.square(wave, dtype=np.float64))))
    largest = float(np.max(np.abs(wave)))
    assert rms > 0, "generators never return silence"
    return (wave * min(10 ** (rms_dbfs / 20) / rms, peak / largest)).astype(np.float32)


def _trim(wave: NDArray) -> NDArray:
    loud = np.flatnonzero(np.abs(wave) > 1e-3 * np.max(np.abs(wave)))
    return wave[loud[0] : loud[-1] + 1]


def _tilt(wave: NDArray, db_per_octave: float) -> NDArray:
    """A linear-phase tilt in dB per octave around 1 kHz, held constant below 250 Hz and above 4 kHz."""
    length = len(wave)
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE_HZ)
    octaves = np.log2(np.clip(frequency, 250, 4000) / 1000)
    return np.fft.irfft(np.fft.rfft(wave) * 10 ** (db_per_octave * octaves / 20), length)
