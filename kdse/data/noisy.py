"""`NoisyFolder`: a LightningDataModule of noisy recordings without clean speech."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from kdse.audio.opening import AudioError
from kdse.data.corpus.corpora import Corpus, Crop, scan
from kdse.data.corpus.decoded import CACHE_GB
from kdse.data.corpus.shards import is_remote
from kdse.data.crops import CropData, Crops, given_together
from kdse.data.file_pairs import find_pairs, stem
from kdse.data.taught import Recording, Taught
from kdse.data.taught_set import TaughtFiles
from kdse.errors import UserError
from kdse.seeding import derive_seed


class NoisyCrops(Crops):
    """Training crops of noisy recordings (see `Crops`), none of them empty: no "clean" and an unknown SNR."""

    def __init__(
        self, corpus: Corpus, sample_rate_hz: int, samples: int, seed: int, taught: Taught | TaughtFiles | None = None
    ) -> None:
        lengths = corpus.lengths(sample_rate_hz)
        if not lengths.all():
            empty = corpus.file(int(lengths.argmin()))
            raise AudioError(f"{empty}: holds no samples at {sample_rate_hz} Hz; remove it")
        super().__init__(lengths, sample_rate_hz, samples, seed, taught=taught)
        self.corpus = corpus

    def decode(self, cache_dir: str | Path | None, most_gb: float) -> None:
        super().decode(cache_dir, most_gb)
        self.corpus = self.corpus.decode(self.sample_rate_hz, cache_dir, most_gb)

    def read(self, crop: Crop, labelled: bool) -> tuple[str, float, Tensor, None]:
        noisy = self.corpus.read(crop.place, self.sample_rate_hz, crop.start, crop.stop)
        return stem(self.corpus.paths[crop.place]), float("nan"), noisy, None


class NoisyFolder(CropData):
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
        cache_gb: the training recordings, and the teacher's, are decoded once, into copies on disk that all later runs
            map into memory, if each takes at most so many GB; 0 reads the files.
        cache_dir: folder of the cache; None means the environment variable KDSE_CACHE, else ~/.cache/kdse.
        taught_set: instead of teacher_folder, what `kdse teach` wrote: for a folder of recordings as those files, for
            this data (`--config`) for the crops of as many epochs as it was asked for, which training goes through
            again and again; their seed is taken where `seed` is not given.
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
        cache_gb: float = CACHE_GB,
        cache_dir: str | None = None,
        taught_set: str | None = None,
    ) -> None:
        super().__init__(
            segment_seconds, batch_size, steps_per_epoch, num_workers, sample_rate_hz, seed, teacher_folder,
            teacher_delay_samples, teacher_gain, cache_gb, cache_dir,
            taught_set,
        )  # fmt: skip
        self.folder = folder if is_remote(folder) else Path(folder)
        self.valid_folders = given_together(("valid_noisy", "valid_clean"), valid_noisy, valid_clean)
        self.manifest, self.shard_cache = manifest, shard_cache
        self._corpus: Corpus | None = None

    def recordings(self) -> Corpus:
        """The training recordings; raises as `scan`."""
        if self._corpus is None:
            files_only = self.teacher_folder is not None
            self._corpus = scan(self.folder, "--data.folder", self.manifest, self.shard_cache, files_only)
        return self._corpus

    def train_dataloader(self) -> DataLoader[Any]:
        corpus = self.recordings()
        taught: Taught | TaughtFiles | None = None
        if self.teacher_folder is not None or self.taught_set is not None:
            lengths = corpus.lengths(self.sample_rate_hz).tolist()
            wanted = [Recording(stem(path), length) for path, length in zip(corpus.paths, lengths, strict=True)]
            taught = self.taught(wanted, [corpus.file(i) for i in range(len(corpus))])
        seed = derive_seed(self.seed, "noisy")
        return self.crop_loader(NoisyCrops(corpus, self.sample_rate_hz, self.segment_samples, seed, taught))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """The validation pairs; nothing if no folders were given."""
        if self.valid_folders is None:
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # as intended
            return []
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader[Any]:
        if self.valid_folders is None:
            raise UserError("no pairs to score against: give --data.valid_noisy and --data.valid_clean")
        flags = ("--data.valid_noisy", "--data.valid_clean")
        return self.whole_loader(find_pairs(*self.valid_folders, self.sample_rate_hz, flags))
