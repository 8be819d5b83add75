"""What an embedded corpus consists of: a list of clips decided from one seed, each a pure function of its entry."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from kdse.data.synthesis.noises import KINDS, noise
from kdse.data.synthesis.rooms import Room, impulse_response, random_room
from kdse.data.synthesis.sentences import LANGUAGES, sentences_of
from kdse.data.synthesis.speech import VARIANTS, Speaker, expected_seconds, random_speaker, speech_clip
from kdse.errors import UserError

#: Raised whenever the same settings would give other samples, so that old caches are not mistaken for new ones.
GENERATOR_VERSION = 1

SPEECH_CLIP_SECONDS = 8.0
NOISE_CLIP_SECONDS = {"train": 20.0, "valid": 10.0, "test": 10.0}
RESPONSES_PER_ROOM = 2


@dataclass(frozen=True)
class Settings:
    """The size and seed of an embedded corpus.

    Args:
        minutes: training speech. Training noise is 0.6 times as long, speech and noise of valid and of test
            0.1 times each; every kind of noise gets at least one clip and every split at least two speakers.
        seed: another seed gives other sentences, speakers, noises and rooms of the same kinds.
    """

    minutes: float = 20.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 600:
            raise UserError(f"minutes (--minutes, --data.minutes) must be above 0 and at most 600, got {self.minutes}")
        object.__setattr__(self, "minutes", float(self.minutes))

    def key(self) -> str:
        """Short hash of these settings and the generator's version: the cache folder's name."""
        text = json.dumps({"version": GENERATOR_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SpeechClip:
    """One speaker reading one or more sentences."""

    path: str
    split: str
    speaker: Speaker
    texts: tuple[str, ...]
    seed: int

    def render(self) -> NDArray[np.float32]:
        """The audio, [N] at 16 kHz."""
        return speech_clip(self.speaker, self.texts, self.seed)

    def describe(self) -> dict[str, str]:
        """What the manifest says about it besides path and length."""
        return {
            "kind": "speech",
            "split": self.split,
            "speaker": self.speaker.name,
            "type": "synthetic speech",
            "gender": self.speaker.gender,
            "language": self.speaker.language,
            "voice": self.speaker.variant,
            "text": " ".join(self.texts),
        }


@dataclass(frozen=True)
class NoiseClip:
    """One stretch of one kind of noise."""

    path: str
    split: str
    noise_kind: str
    seconds: float
    seed: int

    def render(self) -> NDArray[np.float32]:
        return noise(self.noise_kind, self.seed, self.seconds)

    def describe(self) -> dict[str, str]:
        return {"kind": "noise", "split": self.split, "type": self.noise_kind}


@dataclass(frozen=True)
class RoomClip:
    """One impulse response between two places of one room."""

    path: str
    split: str
    name: str
    room: Room
    seed: int

    def render(self) -> NDArray[np.float32]:
        return impulse_response(self.room, self.seed)

    def describe(self) -> dict[str, str]:
        return {
            "kind": "rir",
            "split": self.split,
            "type": "simulated room",
            "room": self.name,
        }


Clip = SpeechClip | NoiseClip | RoomClip


def plan(settings: Settings) -> list[Clip]:
    """Every clip of the corpus, in the order of its manifest. Pure: rendering order and machine do not matter."""
    clips: list[Clip] = []
    for split, share in (("train", 1.0), ("valid", 0.1), ("test", 0.1)):
        minutes = settings.minutes * share
        clips += _plan_speech(split, minutes, _stream(settings, "speech", split))
        noise_minutes = minutes * (0.6 if split == "train" else 1.0)
        clips += _plan_noise(split, noise_minutes, _stream(settings, "noise", split))
        rooms = max(2, round((1.5 if split == "train" else 4) * minutes))
        clips += _plan_rooms(split, min(rooms, 200), _stream(settings, "rir", split))
    return clips


def _plan_speech(split: str, minutes: float, rng: np.random.Generator) -> list[SpeechClip]:
    """Clips of about 8 s until the split is full, speakers in turn; 60 percent speak English, as the sentences do."""
    speakers = []
    for variant in rng.permutation(VARIANTS[split]):
        english = rng.random() < 0.6
        language = rng.choice(["en-us", "en"]) if english else rng.choice(LANGUAGES[2:])
        speakers.append(random_speaker(str(variant), str(language), rng))
    clips: list[SpeechClip] = []
    total = 0.0
    while total < 60 * minutes or len(clips) < 2:
        speaker = speakers[len(clips) % len(speakers)]
        texts: list[str] = []
        seconds = 0.0
        for text in rng.permutation(sentences_of(speaker.language, split)):
            texts.append(str(text))
            seconds += 0.4 + expected_seconds(texts[-1], speaker)
            if seconds > SPEECH_CLIP_SECONDS - 1.5:
                break
        total += seconds
        path = f"speech/{split}/{speaker.name}_{len(clips) // len(speakers):03d}.flac"
        clips.append(SpeechClip(path, split, speaker, tuple(texts), _draw(rng)))
    return clips


def _plan_noise(split: str, minutes: float, rng: np.random.Generator) -> list[NoiseClip]:
    kinds = list(KINDS[split])
    seconds = min(NOISE_CLIP_SECONDS[split], max(5.0, 60 * minutes / len(kinds)))
    count = max(len(kinds), round(60 * minutes / seconds))
    clips = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        path = f"noise/{split}/{kind}_{i // len(kinds):03d}.flac"
        clips.append(NoiseClip(path, split, kind, round(seconds, 3), _draw(rng)))
    return clips


def _plan_rooms(split: str, rooms: int, rng: np.random.Generator) -> list[RoomClip]:
    clips = []
    for number in range(rooms):
        room, name = random_room(rng), f"{split}_{number:03d}"
        for place in range(RESPONSES_PER_ROOM):
            clips.append(RoomClip(f"rir/{split}/room_{number:03d}_{place}.flac", split, name, room, _draw(rng)))
    return clips


def _stream(settings: Settings, *names: str) -> np.random.Generator:
    text = "/".join([str(settings.seed), *names])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def _draw(rng: np.random.Generator) -> int:
    return int(rng.integers(2**62))
