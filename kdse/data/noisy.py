"""`NoisyFolder`: a LightningDataModule of noisy recordings without clean speech."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from kdse.audio.opening import AudioError
from kdse.data.corpus.corpora import Corpus, Crop, scan
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
    needs clean speech and so its own folders; without them there is none, and no ``best`` checkpoint either. See
    `CropData` for the settings that it shares with `PairedFolders`.

    Args:
        folder: the recordings, searched with its subfolders; or what `kdse corpus pack` made of them, a folder or URL.
        valid_noisy: folder of noisy validation files; they are the test files too.
        valid_clean: folder of the clean validation files, of the same relative names.
        manifest: file of `kdse corpus index --out`, for a folder that cannot be written to; one that lies in the folder
            is found without.
        shard_cache: folder that keeps whole shards of object storage as they are used; None keeps nothing.
    """

    labelled_share = 0.0

    def __init__(
        self,
        folder: str,
        valid_noisy: str | None = None,
        valid_clean: str | None = None,
        manifest: str | None = None,
        shard_cache: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
