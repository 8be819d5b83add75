"""`Mixtures`: a LightningDataModule that mixes speech and noise from folders on the fly, in rooms if wanted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdse.audio.levels import SNR_DEFINITIONS, active_db
from kdse.audio.opening import AudioError
from kdse.data.batch import Item, make_item
from kdse.data.corpus.corpora import Corpus, corpus_root, part_of, scan
from kdse.data.labelled import check_share, labelled_places
from kdse.data.mixing import mix
from kdse.data.position import Key, ResumableData, check_positive
from kdse.data.taught_set import TaughtSet, data_seed
from kdse.errors import UserError
from kdse.machine.packages import required
from kdse.seeding import derive_seed

log = logging.getLogger(__name__)

#: Crops of speech that may be too quiet, one after another. Our choice.
REDRAWS = 8
#: Draws that may be digital silence, one after another, before a corpus is refused. Our choice: where one file in ten
#: holds sound, 1 item in 100 million meets as many.
SILENT_REDRAWS = 175
#: Files with silence that were told of.
_named: set[str] = set()

#: A waveform, and the places of the files it is from.
Drawn = tuple[Tensor, list[int]]
Draw = Callable[[Corpus, np.random.Generator], Drawn]


@dataclass(eq=False)
class MixtureSet(Dataset[Item]):
    """Mixtures of one split: item (epoch, index) is a pure function of corpora, seed, epoch and index.

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
        epoch, index = key = key if isinstance(key, tuple) else (0, key)
        rng = np.random.Generator(np.random.Philox(derive_seed(self.seed, "item", epoch, index)))
        snr_db = self._draw_snr(rng, index)
        speech, files = self._draw_speech(rng, key)
        noise, _ = self._sounding(self._crop, self.noise, rng, key, "noise")
        clean: Tensor | None = None
        if self.rooms is not None and rng.random() < self.reverb_share:
            response, _ = self._sounding(self._draw_room, self.rooms, rng, key, "rooms")
            speech, clean = self._reverberate(speech, response)
        level = float(rng.uniform(self.level_dbfs[0], self.level_dbfs[1]))
        mixture = mix(speech, noise, snr_db, self.snr_definition, self.sample_rate_hz, level, clean)
        item = make_item(mixture.noisy, mixture.clean, mixture.snr_db, f"{epoch}-{index:06d}", index)
        if self.labelled is not None:
            known = self.labelled.issuperset(files)
            item["labelled"] = torch.tensor(known)
            if not known:  # of a recording nobody knows the clean part, nor the SNR
                item["clean"] = torch.zeros_like(mixture.clean)
                item["snr_db"] = torch.full_like(item["snr_db"], torch.nan)
        return item

    def _draw_snr(self, rng: np.random.Generator, index: int) -> float:
        if self.cycle_snr:
            return float(self.snr_db[index % len(self.snr_db)])
        if len(self.snr_db) == 2:
            return float(rng.uniform(self.snr_db[0], self.snr_db[1]))
        return float(rng.choice(self.snr_db))

    def _draw_speech(self, rng: np.random.Generator, key: Key) -> Drawn:
        """The first of a few crops that is loud enough, or the loudest of them, and the files it is from.

        In a corpus of nothing but silence that is silent, and the SNR of the item unknown.
        """
        quiet = []
        for _ in range(REDRAWS):
            crop = self._crop(self.speech, rng)
            level = active_db(crop[0], self.sample_rate_hz)
            if level >= self.minimum_active_dbfs:
                return crop
            quiet.append((level, crop))
        speech, files = max(quiet, key=lambda drawn: drawn[0])[1]
        if speech.any():
            return speech, files
        return next(self._drawn_again(self._crop, self.speech, files, key, "speech"), (speech, files))

    def _sounding(self, draw: Draw, corpus: Corpus, rng: np.random.Generator, key: Key, what: str) -> Drawn:
        """What is drawn, or if that is silent, what is drawn again; an AudioError if no sound is to be found."""
        wave, files = draw(corpus, rng)
        if wave.any() or (not self.items and any(corpus.read(place, self.sample_rate_hz).any() for place in files)):
            return wave, files
        for drawn in self._drawn_again(draw, corpus, files, key, what):
            return drawn
        raise AudioError(f"{corpus.root}: {SILENT_REDRAWS} draws in a row were silent; remove files of zeros only")

    def _drawn_again(self, draw: Draw, corpus: Corpus, silent: list[int], key: Key, what: str) -> Iterator[Drawn]:
        """Sound, from a random stream of its own, instead of the silence of some files, which are named once."""
        rng = np.random.Generator(np.random.Philox(derive_seed(self.seed, "again", what, *key)))
        for _ in range(SILENT_REDRAWS):
            for file in {str(corpus.file(place)) for place in silent} - _named:
                _named.add(file)
                log.warning("%s: digital silence (or a part of it that was drawn): another is drawn instead", file)
            wave, silent = draw(corpus, rng)
            if wave.any():
                yield wave, silent

    def _crop(self, corpus: Corpus, rng: np.random.Generator) -> Drawn:
        """A random segment and the files it is from; those too short are followed by others until it is full."""
        parts: list[Tensor] = []
        files: list[int] = []
        missing = self.samples
        while missing > 0:
            index = int(rng.integers(len(corpus)))
            length = corpus.samples(index, self.sample_rate_hz)
            start = int(rng.integers(length - missing + 1)) if length > missing else 0
            part = corpus.read(index, self.sample_rate_hz, start, start + min(missing, length))
            if part.numel() == 0:
                raise AudioError(f"{corpus.file(index)}: holds no samples at {self.sample_rate_hz} Hz; remove it")
            parts.append(part)
            files.append(index)
            missing -= part.numel()
        return torch.cat(parts), files

    def _draw_room(self, rooms: Corpus, rng: np.random.Generator) -> Drawn:
        """A response and its file."""
        place = int(rng.integers(len(rooms)))
        return rooms.read(place, self.sample_rate_hz), [place]

    def _reverberate(self, dry: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        """Reverberant speech and its early part, both aligned to the direct path."""
        fftconvolve = required("torchaudio.functional", "fftconvolve")
        direct = int(response.abs().argmax())
        response = response[direct:] / response[direct].abs().clamp_min(1e-6)
        early = response[: 1 + round(self.early_ms * self.sample_rate_hz / 1000)]
        n = dry.numel()
        return fftconvolve(dry, response)[:n], fftconvolve(dry, early)[:n]


class Mixtures(ResumableData):
    """Speech and noise from folders, mixed on the fly.

    A mixture is a pure function of (files, seed, epoch, index): the same for any rank, worker count and machine.

    Args:
        root: corpus folder with speech/{train,valid,test} and noise/{train,valid,test} (and rir/...), or what
            `kdse corpus pack` made of one: a folder, or a URL (s3://, gs://, azure://, r2://). Mixtures are the same
            from either. None means the environment variable KDSE_CORPUS.
        snr_db: training SNR in dB: two values are a range, any other number of values a list to draw from.
        snr_definition: what level means for the SNR: "rms", "active" (speech level over its active 20 ms frames) or
            "lufs" (ITU-R BS.1770-4, gated in 0.4 s blocks; the two-step paper's).
        level_dbfs: range of the noisy mixture's RMS level in dBFS. The paper is silent; -36 to -20 is our choice.
        reverb_share: share of items that get a room from rir/. The two-step paper mentions no reverberation: 0.
        early_ms: with a room, the target keeps reflections up to this long after the direct path.
        segment_seconds: length of training items.
        batch_size: items a batch and process.
        steps_per_epoch: batches that make an epoch.
        validation_items: fixed mixtures of the validation set, their SNR drawn from `snr_db`.
        validation_seconds: length of validation and test items.
        test_snr_db: the test set holds test_items at each of these SNRs.
        test_items: mixtures at each test SNR.
        minimum_active_dbfs: training speech crops below this level are drawn again, deterministically.
        num_workers: data processes.
        sample_rate_hz: of everything; other files are resampled.
        seed: of the mixtures; None means the run's seed_everything.
        labelled_share: share of the training speech files whose clean speech is used. Below 1, training batches say
            which items are "labelled" (all their speech is from such files), and the clean speech of the others is
            zeros. A smaller share's files are among a larger's; validation and test stay labelled.
        labelled_seed: which files those are. Not the run's seed, so that a teacher and students of any seed agree.
        manifest: file of `kdse corpus index --out`, for a root that cannot be written to; one that lies in root is
            found without.
        shard_cache: folder that keeps whole shards of object storage as they are used, for a disk that holds the
            corpus; None keeps nothing and asks for one recording at a time.
        taught_set: what `kdse teach` wrote for these mixtures, with as many epochs as it was asked for. Training goes
            through them again and again, each with what was taught of it, and no teacher runs. Without `seed` theirs is
            taken, so that runs of other seeds share a set.
    """

    def __init__(
        self,
        root: str | None = None,
        snr_db: list[float] = [-5, 15],  # noqa: B006 (jsonargparse shows it in --help)
        snr_definition: str = "rms",
        level_dbfs: list[float] = [-36, -20],  # noqa: B006
        reverb_share: float = 0.0,
        early_ms: float = 50.0,
        segment_seconds: float = 2.0,
        batch_size: int = 16,
        steps_per_epoch: int = 250,
        validation_items: int = 32,
        validation_seconds: float = 4.0,
        test_snr_db: list[float] = [-5, 0, 5, 10],  # noqa: B006
        test_items: int = 24,
        minimum_active_dbfs: float = -60.0,
        num_workers: int = 0,
        sample_rate_hz: int = 16000,
        seed: int | None = None,
        labelled_share: float = 1.0,
        labelled_seed: int = 0,
        manifest: str | None = None,
        shard_cache: str | None = None,
        taught_set: str | None = None,
    ) -> None:
        super().__init__()
        check_share(labelled_share, "labelled_share")
        if snr_definition not in SNR_DEFINITIONS:
            raise UserError(f"--data.snr_definition {snr_definition}: use one of {', '.join(SNR_DEFINITIONS)}")
        if not snr_db or (len(snr_db) == 2 and snr_db[0] > snr_db[1]):
            raise UserError(f"--data.snr_db {snr_db}: give a range [low, high] or a list of values")
        if len(level_dbfs) != 2 or level_dbfs[0] > level_dbfs[1]:
            raise UserError(f"--data.level_dbfs {level_dbfs}: give a range [low, high]")
        if not test_snr_db:
            raise UserError("--data.test_snr_db: give at least one SNR")
        check_positive(
            batch_size=batch_size, steps_per_epoch=steps_per_epoch, segment_seconds=segment_seconds,
            validation_items=validation_items, validation_seconds=validation_seconds, test_items=test_items,
            sample_rate_hz=sample_rate_hz,
        )  # fmt: skip
        check_positive(or_zero=True, early_ms=early_ms, num_workers=num_workers)
        if snr_definition == "lufs" and min(segment_seconds, validation_seconds) < 0.4:
            raise UserError("--data.snr_definition lufs: needs segments and validation items of at least 0.4 s")
        check_share(reverb_share, "reverb_share")
        self.root, self.manifest, self.shard_cache = root, manifest, shard_cache
        self.snr_db, self.snr_definition, self.level_dbfs = list(snr_db), snr_definition, list(level_dbfs)
        self.reverb_share, self.early_ms = reverb_share, early_ms
        self.segment_seconds, self.validation_seconds = segment_seconds, validation_seconds
        self.batch_size, self.steps_per_epoch, self.num_workers = batch_size, steps_per_epoch, num_workers
        self.validation_items, self.test_snr_db, self.test_items = validation_items, list(test_snr_db), test_items
        self.minimum_active_dbfs, self.sample_rate_hz = minimum_active_dbfs, sample_rate_hz
        self.seed, self.taught_set = data_seed(seed, taught_set), taught_set
        if taught_set is not None and TaughtSet(taught_set).of_files:
            raise UserError(
                f"--data.taught_set {taught_set}: was taught on a folder of recordings, not on mixtures; run `kdse "
                "teach --config` with this config"
            )
        self.labelled_share, self.labelled_seed = labelled_share, labelled_seed
        self._corpora: dict[str, tuple[Corpus, Corpus, Corpus | None]] = {}

    item_settings = (
        "sample_rate_hz", "segment_seconds", "snr_db", "snr_definition", "level_dbfs", "reverb_share", "early_ms",
        "minimum_active_dbfs",
    )  # fmt: skip

    def mixture_set(self, split: str, snr_db: list[float], samples: int, items: int, cycle_snr: bool) -> MixtureSet:
        """The set of mixtures of one split."""
        speech, noise, rooms = self._split(split)
        labelled: frozenset[int] | None = None
        if split == "train" and self.labelled_share < 1:
            labelled = labelled_places(speech.paths, self.labelled_share, self.labelled_seed)
        return MixtureSet(
            speech, noise, rooms, derive_seed(self.seed, "mixtures", split), samples, list(snr_db),
            snr_definition=self.snr_definition, level_dbfs=self.level_dbfs, reverb_share=self.reverb_share,
            early_ms=self.early_ms, minimum_active_dbfs=self.minimum_active_dbfs, sample_rate_hz=self.sample_rate_hz,
            cycle_snr=cycle_snr, items=items, labelled=labelled,
        )  # fmt: skip

    def _split(self, split: str) -> tuple[Corpus, Corpus, Corpus | None]:
        if split not in self._corpora:
            root = self.corpus_folder()

            def corpus(kind: str) -> Corpus:
                return scan(part_of(root, f"{kind}/{split}"), "--data.root", self.manifest, self.shard_cache)

            rooms = corpus("rir") if self.reverb_share > 0 else None
            self._corpora[split] = (corpus("speech"), corpus("noise"), rooms)
        return self._corpora[split]

    def fingerprint(self) -> str:
        """SHA-256 of names and lengths of the training speech, noise and rooms."""
        digest = hashlib.sha256()
        for corpus in self._split("train"):
            digest.update(b"none" if corpus is None else corpus.fingerprint.encode())
        return digest.hexdigest()

    def corpus_folder(self) -> str | Path:
        """The folder that holds speech, noise and rooms, or the URL of shards."""
        return corpus_root(self.root)

    def train_dataloader(self) -> DataLoader[Any]:
        samples = round(self.segment_seconds * self.sample_rate_hz)
        items = self.mixture_set("train", self.snr_db, samples, 0, False)
        return self.training_loader(items, self.steps_per_epoch, self.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._fixed("valid", self.snr_db, self.validation_items, False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._fixed("test", self.test_snr_db, self.test_items * len(self.test_snr_db), True)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.test_dataloader()

    def _fixed(self, split: str, snr_db: list[float], items: int, cycle_snr: bool) -> DataLoader[Any]:
        samples = round(self.validation_seconds * self.sample_rate_hz)
        return self.shared_loader(self.mixture_set(split, snr_db, samples, items, cycle_snr), self.batch_size)
