"""`MixtureSet`: the mixtures of one split, as a pure function of recordings, seed, epoch and index, batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdse.audio.levels import active_db, sum_dtype
from kdse.audio.opening import AudioError, reason
from kdse.data.batch import Batch, Item
from kdse.data.corpus.corpora import Corpus, Crop
from kdse.data.corpus.decoded import UNIT
from kdse.data.mixing import mix
from kdse.data.position import Key
from kdse.errors import UserError
from kdse.seeding import derive_seed

log = logging.getLogger(__name__)

#: Crops of speech that may be too quiet, one after another. Our choice.
REDRAWS = 8
#: Draws that may be digital silence, one after another, before a corpus is refused. Our choice: where one file in ten
#: holds sound, 1 item in 100 million meets as many.
SILENT_REDRAWS = 175
#: Of every so many samples one shows that a crop is loud enough, or sounds; only if it does not, all are looked at.
#: Our choice.
GLANCE = 8
#: Files with silence that a warning has named.
_named: set[str] = set()

#: The crops of an item, one after another, and their audio ``[N]`` in units of 1/32768.
Drawn = tuple[list[Crop], Tensor]
Draw = Callable[[Corpus, np.random.Generator], Drawn]


class Room(NamedTuple):
    """The impulse response of an item's room: its place, and the sample of its direct path."""

    place: int
    direct: int


class Plan(NamedTuple):
    """What the items of a batch are mixed from: all that is drawn, and no audio. Crops of an item follow each other."""

    keys: list[Key]
    snr_db: list[float]
    level_dbfs: list[float]
    speech: list[list[Crop]]
    noise: list[list[Crop]]
    rooms: list[Room | None]


class Waves(NamedTuple):
    """The audio of a plan: speech and noise ``[B, N]`` in units of 1/32768, impulse responses ``[M]`` in full scale."""

    speech: Tensor
    noise: Tensor
    responses: list[Tensor | None]


@dataclass(eq=False)
class MixtureSet(Dataset[Item]):
    """Mixtures of one split: item (epoch, index) is a pure function of corpora, seed, epoch and index.

    A batch is drawn and mixed at once; an item is the same, bit for bit, alone and in any batch.

    Noise, rooms and speech that are digital silence where they were drawn, all zeros, are drawn again: without noise
    an item would score +100 dB, and a silent room would make the target silent. The other draws of the item stay. In
    training, whose items nobody scores, the pause of a noise file with sound stays too: speech alone is an example.

    speech, noise, rooms: corpora; rooms (of impulse responses) only where there are any.
    seed: of this set. samples: length of an item. items: length of the set; 0 in training.
    snr_db, snr_definition, level_dbfs, reverb_share, early_ms, minimum_active_dbfs, sample_rate_hz: as of `Mixtures`.
    cycle_snr: item i takes the i-th SNR of the list in turn instead of a random one.
    labelled: places of the speech files that count as labelled. Noisy audio is the same whichever they are; an item of
        any other file has zeros for clean speech and NaN for its SNR. None means all, and items say nothing.
    """

    speech: Corpus
    noise: Corpus
    rooms: Corpus | None
    seed: int
    samples: int
    snr_db: list[float]
    snr_definition: str
    level_dbfs: list[float]
    reverb_share: float
    early_ms: float
    minimum_active_dbfs: float
    sample_rate_hz: int
    cycle_snr: bool = False
    items: int = 0
    labelled: frozenset[int] | None = None

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, key: Key | int) -> Item:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key | int]) -> list[Item]:
        """The items of a batch; a key that is a number is of epoch 0."""
        if not keys:
            return []
        batch = self._mix(*self._draw([key if isinstance(key, tuple) else (0, key) for key in keys]))
        columns = cast(dict[str, Sequence[object]], batch)
        return [cast(Item, {name: column[row] for name, column in columns.items()}) for row in range(len(keys))]

    def plan(self, keys: Sequence[Key]) -> Plan:
        """What the items of a batch are mixed from, for `mixed`."""
        return self._draw(keys)[0]

    def mixed(self, plan: Plan) -> Batch:
        """The batch of a plan, on the device of the recordings, which is not waited for ("labelled" on the host)."""
        speech = self.speech.crops(plan.speech, self.sample_rate_hz)
        noise = self.noise.crops(plan.noise, self.sample_rate_hz)
        return self._mix(plan, Waves(speech, noise, [self._response(room) for room in plan.rooms]))

    def _response(self, room: Room | None) -> Tensor | None:
        return None if room is None or self.rooms is None else self.rooms.read(room.place, self.sample_rate_hz)

    def decoded(self, cache_dir: str | Path | None, most_gb: float) -> MixtureSet:
        """The same set with each corpus decoded from the cache where it can be kept there (see `Corpus.decode`)."""
        speech, noise, rooms = (
            corpus and corpus.decode(self.sample_rate_hz, cache_dir, most_gb)
            for corpus in (self.speech, self.noise, self.rooms)
        )
        return replace(self, speech=speech or self.speech, noise=noise or self.noise, rooms=rooms)

    def to(self, device: torch.device) -> MixtureSet:
        """The same set with its decoded recordings in the memory of a device."""
        rooms = None if self.rooms is None else self.rooms.to(device)
        return replace(self, speech=self.speech.to(device), noise=self.noise.to(device), rooms=rooms)

    def _mix(self, plan: Plan, waves: Waves) -> Batch:
        speech, noise = (wave.float() * UNIT for wave in (waves.speech, waves.noise))
        known = [self.labelled is None or self.labelled.issuperset(c.place for c in crops) for crops in plan.speech]
        indices = [index for _, index in plan.keys]
        snr_db, level_dbfs, roomed, labelled, index = _sent(
            [plan.snr_db, plan.level_dbfs, [room is not None for room in plan.rooms], known, indices], speech.device
        )
        early = torch.zeros_like(speech) if any(plan.rooms) else None  # (zeros count for nothing in the peak)
        for row, (room, response) in enumerate(zip(plan.rooms, waves.responses, strict=True)):
            if early is not None and room is not None and response is not None:
                speech[row], early[row] = self._reverberate(speech[row], response, room.direct)
        mixture = mix(speech, noise, snr_db, self.snr_definition, self.sample_rate_hz, level_dbfs, early)
        clean = mixture.speech if early is None else mixture.clean.where(roomed[:, None] > 0, mixture.speech)
        index = index.long()
        batch: Batch = {
            "noisy": mixture.noisy,
            "clean": clean,
            "snr_db": mixture.snr_db.float(),
            "samples": torch.full_like(index, self.samples),
            "name": [f"{epoch}-{index:06d}" for epoch, index in plan.keys],
            "index": index,
        }
        if self.labelled is not None:  # of a recording without label nobody knows the clean part, nor the SNR
            batch["labelled"] = torch.tensor(known)
            batch["clean"] = clean.where(labelled[:, None] > 0, 0.0)
            batch["snr_db"] = batch["snr_db"].where(labelled > 0, torch.nan)
        return batch

    def _draw(self, keys: Sequence[Key]) -> tuple[Plan, Waves]:
        streams = [np.random.Generator(np.random.Philox(derive_seed(self.seed, "item", *key))) for key in keys]
        snr_db = [self._draw_snr(rng, index) for rng, (_, index) in zip(streams, keys, strict=True)]
        speech = [self._crops(self.speech, rng) for rng in streams]
        waves = self.speech.crops(speech, self.sample_rate_hz)
        quiet = _rows(~self._surely_loud(waves))
        louder = {row: self._loud((speech[row], waves[row]), streams[row], keys[row]) for row in quiet}
        speech, speech_waves = _replaced(speech, waves, louder)
        noise = [self._crops(self.noise, rng) for rng in streams]
        waves = self.noise.crops(noise, self.sample_rate_hz)
        silent = _rows(~waves[:, ::GLANCE].any(-1))
        sounds = {
            row: self._sounding(self._crop, self.noise, (noise[row], waves[row]), keys[row], "noise") for row in silent
        }
        noise, noise_waves = _replaced(noise, waves, sounds)
        rooms: list[Room | None] = []
        responses: list[Tensor | None] = []
        level_dbfs = []
        for rng, key in zip(streams, keys, strict=True):
            room = response = None
            if self.rooms is not None and rng.random() < self.reverb_share:
                drawn = self._draw_room(self.rooms, rng)
                crops, response = self._sounding(self._draw_room, self.rooms, drawn, key, "rooms")
                room = Room(crops[0].place, int(response.abs().argmax()))
            rooms.append(room)
            responses.append(response)
            level_dbfs.append(float(rng.uniform(self.level_dbfs[0], self.level_dbfs[1])))
        return Plan(list(keys), snr_db, level_dbfs, speech, noise, rooms), Waves(speech_waves, noise_waves, responses)

    def _draw_snr(self, rng: np.random.Generator, index: int) -> float:
        if self.cycle_snr:
            return float(self.snr_db[index % len(self.snr_db)])
        if len(self.snr_db) == 2:
            return float(rng.uniform(self.snr_db[0], self.snr_db[1]))
        return float(rng.choice(self.snr_db))

    def _surely_loud(self, waves: Tensor) -> Tensor:
        """Whether some samples of ``[B, N]`` alone make crops loud enough: the active level is never below the RMS."""
        frame = max(1, round(0.02 * self.sample_rate_hz))
        count = self.samples // frame * frame or self.samples
        energy = torch.linalg.vector_norm(waves[:, :count:GLANCE].double() * UNIT, dim=-1).square()
        return energy >= count * 10 ** (self.minimum_active_dbfs / 10) * (1 + 1e-6)  # (the rounding of either)

    def _loud(self, drawn: Drawn, rng: np.random.Generator, key: Key) -> Drawn:
        """The first of a few draws of speech that is loud enough, or the loudest of them; the first of all is given.

        In a corpus of nothing but silence that is silent, and the SNR of the item unknown.
        """
        quiet = []
        for redraw in range(REDRAWS):
            drawn = self._crop(self.speech, rng) if redraw else drawn
            level = float(active_db(drawn[1].float() * UNIT, self.sample_rate_hz))
            if level >= self.minimum_active_dbfs:
                return drawn
            quiet.append((level, drawn))
        crops, wave = max(quiet, key=lambda one: one[0])[1]
        if wave.any():
            return crops, wave
        return next(self._drawn_again(self._crop, self.speech, crops, key, "speech"), (crops, wave))

    def _sounding(self, draw: Draw, corpus: Corpus, drawn: Drawn, key: Key, what: str) -> Drawn:
        """What was drawn, or if that is silent, what is drawn again; an AudioError if no sound is to be found."""
        crops, wave = drawn
        if wave.any() or (not self.items and any(corpus.read(crop.place, self.sample_rate_hz).any() for crop in crops)):
            return drawn
        for again in self._drawn_again(draw, corpus, crops, key, what):
            return again
        raise AudioError(f"{corpus.root}: {SILENT_REDRAWS} draws in a row were silent; remove files of zeros only")

    def _drawn_again(self, draw: Draw, corpus: Corpus, silent: list[Crop], key: Key, what: str) -> Iterator[Drawn]:
        """Sound, from a random stream of its own, instead of silent crops, whose files are named once."""
        rng = np.random.Generator(np.random.Philox(derive_seed(self.seed, "again", what, *key)))
        for _ in range(SILENT_REDRAWS):
            for file in {str(corpus.file(crop.place)) for crop in silent} - _named:
                _named.add(file)
                log.warning("%s: digital silence (or a part of it that was drawn): another is drawn instead", file)
            silent, wave = draw(corpus, rng)
            if wave.any():
                yield silent, wave

    def _crop(self, corpus: Corpus, rng: np.random.Generator) -> Drawn:
        crops = self._crops(corpus, rng)
        return crops, corpus.crops([crops], self.sample_rate_hz)[0]

    def _crops(self, corpus: Corpus, rng: np.random.Generator) -> list[Crop]:
        """A random segment of a file; if that is too short, followed by others until there is enough."""
        crops: list[Crop] = []
        missing = self.samples
        while missing > 0:
            place = int(rng.integers(len(corpus)))
            length = corpus.samples(place, self.sample_rate_hz)
            if not length:
                raise AudioError(f"{corpus.file(place)}: holds no samples at {self.sample_rate_hz} Hz; remove it")
            start = int(rng.integers(length - missing + 1)) if length > missing else 0
            crops.append(Crop(place, start, start + min(missing, length)))
            missing -= min(missing, length)
        return crops

    def _draw_room(self, rooms: Corpus, rng: np.random.Generator) -> Drawn:
        place = int(rng.integers(len(rooms)))
        response = rooms.read(place, self.sample_rate_hz)
        return [Crop(place, 0, len(response))], response

    def _reverberate(self, dry: Tensor, response: Tensor, direct: int) -> tuple[Tensor, Tensor]:
        """Reverberant speech and its early part, both aligned to the direct path."""
        from scipy import fft as scipy_fft

        count = dry.numel()
        response = response[direct : direct + count] / response[direct].abs().clamp_min(1e-6)
        early = response[: 1 + round(self.early_ms * self.sample_rate_hz / 1000)]
        size = scipy_fft.next_fast_len(count + response.numel() - 1, real=True)
        # on the CPU torch's transforms take twice as long, and round differently with another number of threads
        fft, plain = (scipy_fft, Tensor.numpy) if dry.device.type == "cpu" else (torch.fft, Tensor.contiguous)
        spectrum = fft.rfft(plain(dry), size)
        reverberant, target = (
            torch.as_tensor(fft.irfft(spectrum * fft.rfft(plain(part), size), size)[:count])
            for part in (response, early)
        )
        return reverberant, target


def _replaced(crops: list[list[Crop]], waves: Tensor, others: dict[int, Drawn]) -> tuple[list[list[Crop]], Tensor]:
    """The crops and waves of a batch, some rows of which are others."""
    if others:
        rows = range(len(crops))
        crops = [others[row][0] if row in others else crops[row] for row in rows]
        waves = torch.stack([others[row][1] if row in others else waves[row] for row in rows])
    return crops, waves


def _rows(chosen: Tensor) -> list[int]:
    """Numbers of the rows for which ``[B]`` is true."""
    return chosen.nonzero()[:, 0].tolist()


def _sent(rows: list[Sequence[float]], device: torch.device) -> Tensor:
    """Numbers ``[len(rows), B]`` on a device, in one transfer, for which neither waits."""
    values = torch.tensor(rows, dtype=sum_dtype(device))
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


class Plans(Dataset[Plan]):
    """The plan of each batch of a set, for `MixtureSet.mixed`; of a loader whose collate function is `as_it_is`."""

    def __init__(self, items: MixtureSet) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitems__(self, keys: Sequence[Key]) -> Plan:
        return self.items.plan(keys)


def as_it_is(plan: Plan) -> Plan:
    """A collate function for what is a batch already."""
    return plan


class Resident:
    """A set whose decoded recordings are kept in the memory of one device after another, the last that was asked for.

    A ValueError if they are not decoded.
    """

    def __init__(self, items: MixtureSet) -> None:
        self.items = items
        self._there: tuple[torch.device, MixtureSet] | None = None
        corpora = [corpus for corpus in (items.speech, items.noise, items.rooms) if corpus is not None]
        for corpus in corpora:
            if corpus.decoded is None:
                raise UserError(f"--data.on_accelerator: {corpus.root} is not decoded; leave it out, or see above")
        self.gigabytes = sum(corpus.decoded.samples.nbytes for corpus in corpora if corpus.decoded) / 1e9

    def on(self, device: torch.device) -> MixtureSet:
        """The set on a device; a ValueError if it does not fit there."""
        if self._there is None or self._there[0] != device:
            try:
                if device.type == "cuda" and self.gigabytes > (free := torch.cuda.mem_get_info(device)[0] / 1e9):
                    raise RuntimeError(f"{free:.2f} GB are free")
                self._there = device, self.items.to(device)
            except RuntimeError as error:
                raise UserError(
                    f"--data.on_accelerator: {self.gigabytes:.2f} GB of recordings do not fit on {device} "
                    f"({reason(error)}); leave it out"
                ) from None
        return self._there[1]
