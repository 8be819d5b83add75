"""Training crops of recordings: which file, which part of it, and what the data modules of files have in common."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdse.data.batch import Item, make_item, pad_batch
from kdse.data.corpus.corpora import Crop
from kdse.data.corpus.decoded import CACHE_GB
from kdse.data.file_pairs import Pair
from kdse.data.position import Key, ResumableData, check_positive
from kdse.data.taught import Recording, Taught, align_taught, find_taught
from kdse.data.taught_set import TaughtFiles, data_seed, find_recordings
from kdse.data.whole_pairs import PairSet
from kdse.errors import UserError
from kdse.seeding import derive_seed


def crop_at(key: Key, lengths: Sequence[int] | np.ndarray, samples: int, seed: int) -> Crop:
    """The crop of item (epoch, index) of recordings of some ``lengths`` in samples: a pure function of its arguments.

    Every epoch goes through all recordings in a new order, then through them again in another if it is longer than
    that. A recording shorter than ``samples`` is taken whole.
    """
    epoch, index = key
    lap, position = divmod(index, len(lengths))
    place = int(_order(len(lengths), derive_seed(seed, "order", epoch, lap))[position])
    rng = np.random.Generator(np.random.Philox(derive_seed(seed, "crop", epoch, index)))
    length = int(lengths[place])
    start = int(rng.integers(length - samples + 1)) if length > samples else 0
    return Crop(place, start, start + min(samples, length))


@lru_cache(maxsize=4)
def _order(count: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).permutation(count)


class Crops(Dataset[Item]):
    """Training crops: item (epoch, index) is a pure function of recordings, seed, epoch and index (see `crop_at`).

    A recording shorter than the crop is repeated from its start, so that no item holds padding.

    lengths: samples of each recording. samples: of an item. seed: of order and crops.
    labelled: places of the recordings whose clean speech is used; that of the others is zeros, and every item says
    which it is. None means all, and items say nothing.
    taught: the teacher's file for each recording; None for none.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        sample_rate_hz: int,
        samples: int,
        seed: int,
        labelled: frozenset[int] | None = None,
        taught: Taught | TaughtFiles | None = None,
    ) -> None:
        self.lengths, self.sample_rate_hz, self.samples, self.seed = lengths, sample_rate_hz, samples, seed
        self.labelled, self.taught = labelled, taught

    def decode(self, cache_dir: str | Path | None, most_gb: float) -> None:
        """Reads decoded copies of the recordings from now on, where they can be kept (see `Corpus.decode`)."""
        if isinstance(self.taught, Taught):  # (a taught set is decoded)
            self.taught = self.taught.decoded(self.lengths, self.sample_rate_hz, cache_dir, most_gb)

    @abstractmethod
    def read(self, crop: Crop, labelled: bool) -> tuple[str, float, Tensor, Tensor | None]:
        """Name and SNR in dB of a recording, then noisy and clean audio ``[N]`` of its crop.

        The clean audio of a recording that is not labelled is zeros; None where no recording has any.
        """

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        place, start, stop = crop = crop_at(key, self.lengths, self.samples, self.seed)
        labelled = self.labelled is None or place in self.labelled
        name, snr_db, noisy, clean = self.read(crop, labelled)
        clean = None if clean is None else self._fill(clean)
        item = make_item(self._fill(noisy), clean, snr_db, f"{epoch}-{index:06d}-{name}", index)
        if self.labelled is not None:
            item["labelled"] = torch.tensor(labelled)
        if self.taught is not None:
            item["taught"] = self._fill(self.taught.read(place, self.sample_rate_hz, start, stop))
        return item

    def _fill(self, wave: Tensor) -> Tensor:
        times = -(-self.samples // wave.shape[-1])
        return wave if times == 1 else torch.cat([wave] * times, -1)[..., : self.samples]


class CropData(ResumableData):
    """A data module that trains on `Crops` of recordings and scores whole pairs of files.

    Args:
        segment_seconds: length of training crops; shorter files are repeated.
        batch_size: items a batch and process.
        steps_per_epoch: batches that make an epoch; None means one crop of every training recording.
        num_workers: data processes.
        sample_rate_hz: of everything; other files (VoiceBank-DEMAND has 48 kHz) are resampled.
        seed: of order and crops; None means the run's seed_everything.
        teacher_folder: files that any system made of the noisy training files, of the same relative names. Training
            batches then carry them as "taught", and so do validation batches of `PairedFolders` if the folder holds
            the held-out files too. Up to 0.1 s more or less at the end is cut or filled with zeros.
        teacher_delay_samples: how late those files are, at this rate; None measures it and says so in the log.
        teacher_gain: their level, which is divided out; None measures it (within 1 dB it is left alone), 1 leaves it.
        cache_gb: noisy, clean and taught training files are decoded (and resampled) once, into copies on disk that all
            later runs map into memory, if each takes at most so many GB; 0 reads the files.
        cache_dir: folder of the cache; None means the environment variable KDSE_CACHE, else ~/.cache/kdse.
        taught_set: instead of teacher_folder, what `kdse teach` wrote: for a folder of recordings as those files, for
            this data (`--config`) for the crops of as many epochs as it was asked for, which training goes through
            again and again; their seed is taken where `seed` is not given.
    """

    def __init__(
        self,
        segment_seconds: float = 2.0,
        batch_size: int = 16,
        steps_per_epoch: int | None = None,
        num_workers: int = 0,
        sample_rate_hz: int = 16000,
        seed: int | None = None,
        teacher_folder: str | None = None,
        teacher_delay_samples: int | None = None,
        teacher_gain: float | None = None,
        cache_gb: float = CACHE_GB,
        cache_dir: str | None = None,
        taught_set: str | None = None,
    ) -> None:
        super().__init__()
        check_positive(batch_size=batch_size, segment_seconds=segment_seconds, sample_rate_hz=sample_rate_hz)
        check_positive(steps_per_epoch=1 if steps_per_epoch is None else steps_per_epoch)
        check_positive(or_zero=True, num_workers=num_workers, cache_gb=cache_gb)
        if teacher_gain == 0:
            raise UserError("--data.teacher_gain 0: must not be zero; 1 leaves the level, null measures it")
        self.segment_seconds, self.batch_size, self.steps_per_epoch = segment_seconds, batch_size, steps_per_epoch
        self.num_workers, self.sample_rate_hz = num_workers, sample_rate_hz
        if teacher_folder is not None and taught_set is not None:
            raise UserError("--data.teacher_folder and --data.taught_set: give one of them")
        self.seed, self.taught_set = data_seed(seed, taught_set), taught_set
        self.teacher_folder, self.teacher_delay_samples = teacher_folder, teacher_delay_samples
        self.teacher_gain = teacher_gain
        self.cache_gb, self.cache_dir = cache_gb, cache_dir

    @property
    def segment_samples(self) -> int:
        """Length of a training item in samples."""
        return round(self.segment_seconds * self.sample_rate_hz)

    def crop_loader(self, crops: Crops) -> DataLoader[Any]:
        """The training loader; an epoch is once through the recordings unless `steps_per_epoch` says otherwise."""
        crops.decode(self.cache_dir, self.cache_gb)
        _, world = self.rank_and_world()
        steps = self.steps_per_epoch or max(1, len(crops) // (self.batch_size * world))
        return self.training_loader(crops, steps, self.batch_size)

    def taught_by(self, items: Any) -> dict[str, Any]:
        lengths = np.asarray(items.lengths, dtype=np.int64).tobytes()
        return {**super().taught_by(items), "recordings": hashlib.sha256(lengths).hexdigest()}

    def whole_loader(self, pairs: list[Pair], taught: Taught | TaughtFiles | None = None) -> DataLoader[Any]:
        """A loader of whole files for validation and test."""
        return self.shared_loader(PairSet(pairs, self.sample_rate_hz, taught), self.batch_size, pad_batch)

    def taught(
        self, recordings: list[Recording], noisy: Sequence[str | Path], required: bool = True
    ) -> Taught | TaughtFiles | None:
        """What was taught of whole recordings: in a set, or in files (see `find_taught`); None without either."""
        if self.taught_set is not None:
            return find_recordings(self.taught_set, recordings, self.sample_rate_hz, required)
        if self.teacher_folder is None:
            return None
        files = find_taught(self.teacher_folder, recordings, self.sample_rate_hz, required)
        if files is None:
            return None
        return align_taught(files, noisy, self.sample_rate_hz, self.teacher_delay_samples, self.teacher_gain)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.test_dataloader()  # type: ignore[no-any-return]


def given_together(settings: tuple[str, str], one: str | None, other: str | None) -> tuple[Path, Path] | None:
    """Two folders of which neither is of use alone: None if neither is given, a ValueError if one is missing."""
    if (one is None) != (other is None):
        raise UserError(f"--data.{settings[0]} and --data.{settings[1]} go together: give both or neither")
    return None if one is None or other is None else (Path(one), Path(other))
