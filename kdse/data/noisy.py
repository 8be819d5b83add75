"""`NoisyFolder`: noisy recordings without clean speech, as a LightningDataModule."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from kdse.audio.files import AudioError
from kdse.data.corpus.corpora import Corpus, scan
from kdse.data.corpus.shards import is_remote
from kdse.data.crops import crop_at, fill
from kdse.data.file_pairs import Pair, PairSet, find_pairs
from kdse.data.paired import pad_batch
from kdse.data.position import Key, ResumableData, check_positive
from kdse.data.taught import Recording, Taught, align_taught, check_alignment, find_taught
from kdse.seeding import derive_seed, run_seed


class NoisySet(Dataset[dict[str, Any]]):
    """Training crops: item (epoch, index) is a pure function of recordings, seed, epoch and index (see `crop_at`).

    Items have no "clean" and an unknown SNR. A recording shorter than the crop is repeated from its start.

    Args:
        corpus: the recordings.
        sample_rate_hz: of the items.
        samples: of an item.
        seed: of order and crops.
        taught: the teacher's file for each recording; None for none.
    """

    def __init__(
        self, corpus: Corpus, sample_rate_hz: int, samples: int, seed: int, taught: Taught | None = None
    ) -> None:
        self.corpus, self.sample_rate_hz, self.samples, self.seed = corpus, sample_rate_hz, samples, seed
        self.taught = taught
        self.lengths = corpus.lengths(sample_rate_hz)
        if not self.lengths.all():
            empty = corpus.file(int(self.lengths.argmin()))
            raise AudioError(f"{empty}: holds no samples at {sample_rate_hz} Hz; remove it")

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        place, start, stop = crop_at(key, self.lengths, self.samples, self.seed)
        item = {
            "noisy": fill(self.corpus.read(place, self.sample_rate_hz, start, stop), self.samples),
            "snr_db": torch.tensor(torch.nan),
            "samples": torch.tensor(self.samples),
            "name": f"{epoch}-{index:06d}-{_stem(self.corpus.paths[place])}",
            "index": torch.tensor(index),
        }
        if self.taught is not None:
            item["taught"] = fill(self.taught.read(place, self.sample_rate_hz, start, stop), self.samples)
        return item


class NoisyFolder(ResumableData):
    """Noisy recordings of which nobody has the clean speech: a teacher is all that a student can learn from.

    Training batches have no "clean": give the supervised loss no weight (`schedule: Joint` with gamma 1). Validation
    needs clean speech and so its own folders; without them there is none, and no ``best`` checkpoint either.

    Args:
        folder: the recordings, searched with its subfolders; or what `kdse corpus pack` made of them, a folder or URL.
        teacher_folder: files that any system made of them, of the same relative names. Training batches then carry
            them as "taught". Up to 0.1 s more or less at the end is cut or filled with zeros.
        valid_noisy: folder of noisy validation files; they are the test files too.
        valid_clean: folder of the clean validation files, of the same relative names.
        segment_seconds: length of training crops; shorter files are repeated.
        batch_size: items a batch and process.
        steps_per_epoch: batches that make an epoch; None means one crop of every recording.
        num_workers: data processes.
        sample_rate_hz: of everything; other files are resampled.
        seed: of order and crops; None means the run's seed_everything.
        teacher_delay_samples: how late those files are, at this rate; None measures it and says so in the log.
        teacher_gain: their level, which is divided out; None measures it (within 1 dB it is left alone), 1 leaves it.
        manifest: file of `kdse corpus index --out`, for a folder that cannot be written to; one that lies in the folder
            is found without.
        shard_cache: folder that keeps whole shards of object storage as they are used; None keeps nothing.
    """

    labelled_share = 0.0

    def __init__(
        self,
        folder: str,
        teacher_folder: str | None = None,
        valid_noisy: str | None = None,
        valid_clean: str | None = None,
        segment_seconds: float = 2.0,
        batch_size: int = 16,
        steps_per_epoch: int | None = None,
        num_workers: int = 0,
        sample_rate_hz: int = 16000,
        seed: int | None = None,
        teacher_delay_samples: int | None = None,
        teacher_gain: float | None = None,
        manifest: str | None = None,
        shard_cache: str | None = None,
    ) -> None:
        super().__init__()
        self.teacher_alignment = check_alignment(teacher_delay_samples, teacher_gain)
        if (valid_noisy is None) != (valid_clean is None):
            raise ValueError("--data.valid_noisy and --data.valid_clean go together: give both or neither")
        check_positive(batch_size=batch_size, segment_seconds=segment_seconds, sample_rate_hz=sample_rate_hz)
        check_positive(steps_per_epoch=1 if steps_per_epoch is None else steps_per_epoch)
        check_positive(or_zero=True, num_workers=num_workers)
        self.folder, self.teacher_folder = folder if is_remote(folder) else Path(folder), teacher_folder
        self.manifest, self.shard_cache = manifest, shard_cache
        self.valid_folders = (
            None if valid_noisy is None or valid_clean is None else (Path(valid_noisy), Path(valid_clean))
        )
        self.segment_seconds, self.batch_size, self.steps_per_epoch = segment_seconds, batch_size, steps_per_epoch
        self.num_workers, self.sample_rate_hz = num_workers, sample_rate_hz
        self.seed = run_seed() if seed is None else seed
        self._corpus: Corpus | None = None

    def recordings(self) -> Corpus:
        """The training recordings.

        Raises:
            ValueError: as `scan`.
        """
        if self._corpus is None:
            files_only = self.teacher_folder is not None
            self._corpus = scan(self.folder, "--data.folder", self.manifest, self.shard_cache, files_only)
        return self._corpus

    def train_dataloader(self) -> DataLoader[Any]:
        corpus = self.recordings()
        _, world = self.rank_and_world()
        steps = self.steps_per_epoch or max(1, len(corpus) // (self.batch_size * world))
        samples = round(self.segment_seconds * self.sample_rate_hz)
        taught: Taught | None = None
        if self.teacher_folder is not None:
            wanted = [Recording(_stem(p), corpus.samples(i, self.sample_rate_hz)) for i, p in enumerate(corpus.paths)]
            files = find_taught(self.teacher_folder, wanted, self.sample_rate_hz)
            assert files is not None
            noisy = [corpus.file(i) for i in range(len(corpus))]
            taught = align_taught(files, noisy, self.sample_rate_hz, *self.teacher_alignment)
        items = NoisySet(corpus, self.sample_rate_hz, samples, derive_seed(self.seed, "noisy"), taught)
        return self.loader(items, batch_sampler=self.batches(steps, self.batch_size))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation pairs; nothing if no folders were given."""
        if self.valid_folders is None:
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # as intended
            return []
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader[Any]:
        items = PairSet(self._pairs(), self.sample_rate_hz)
        return self.shared_loader(items, self.batch_size, pad_batch)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.test_dataloader()

    def _pairs(self) -> list[Pair]:
        if self.valid_folders is None:
            raise ValueError("no pairs to score against: give --data.valid_noisy and --data.valid_clean")
        return find_pairs(*self.valid_folders, self.sample_rate_hz, ("--data.valid_noisy", "--data.valid_clean"))


def _stem(path: str) -> str:
    return path.rsplit(".", 1)[0]
