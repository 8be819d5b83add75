"""The plan of an embedded corpus: a list of clips drawn from one seed, each a pure function of its entry."""

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

    minutes: of training speech. Training noise is 0.6 times as long, speech and noise of valid and of test 0.1 times
    each; every kind of noise gets at least one clip and every split at least two speakers.
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
        about = {"kind": "speech", "split": self.split, "type": "synthetic speech", "text": " ".join(self.texts)}
        who = self.speaker
        return {**about, "speaker": who.name, "gender": who.gender, "language": who.language, "voice": who.variant}


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
        return {"kind": "rir", "split": self.split, "type": "simulated room", "room": self.name}


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
        language = rng.choice(LANGUAGES[:2] if rng.random() < 0.6 else LANGUAGES[2:])
        speakers.append(random_speaker(str(variant), str(language), rng))
    clips: list[SpeechClip] = []
    total = 0.0
    while total < 60 * minutes or len(clips) < 2:
        take, who = divmod(len(clips), len(speakers))
        speaker, texts, seconds = speakers[who], [], 0.0
        for text in map(str, rng.permutation(sentences_of(speakers[who].language, split))):
            texts.append(text)
            seconds += 0.4 + expected_seconds(text, speaker)
            if seconds > SPEECH_CLIP_SECONDS - 1.5:
                break
        total += seconds
        path = f"speech/{split}/{speaker.name}_{take:03d}.flac"
        clips.append(SpeechClip(path, split, speaker, tuple(texts), _draw(rng)))
    return clips


def _plan_noise(split: str, minutes: float, rng: np.random.Generator) -> list[NoiseClip]:
    kinds = list(KINDS[split])
    seconds = min(NOISE_CLIP_SECONDS[split], max(5.0, 60 * minutes / len(kinds)))
    clips = []
    for i in range(max(len(kinds), round(60 * minutes / seconds))):
        take, kind = divmod(i, len(kinds))
        path = f"noise/{split}/{kinds[kind]}_{take:03d}.flac"
        clips.append(NoiseClip(path, split, kinds[kind], round(seconds, 3), _draw(rng)))
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
