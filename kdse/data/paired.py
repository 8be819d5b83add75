"""`PairedFolders`: a LightningDataModule of recordings that come as noisy and clean files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdse.data.batch import pad_batch
from kdse.data.corpus.corpora import Crop, of_files
from kdse.data.crops import CropData, Crops, given_together
from kdse.data.file_pairs import Pair, find_pairs, speaker
from kdse.data.labelled import check_share, labelled_places
from kdse.data.taught import Recording, Taught
from kdse.data.taught_set import TaughtFiles
from kdse.errors import UserError
from kdse.seeding import derive_seed

__all__ = ["CropSet", "PairedFolders", "pad_batch"]

VOICEBANK_TRAIN = ("noisy_trainset_28spk_wav", "clean_trainset_28spk_wav")
VOICEBANK_TEST = ("noisy_testset_wav", "clean_testset_wav")
VOICEBANK_VALID_SPEAKERS = ("p226", "p287")


class CropSet(Crops):
    """Training crops of pairs (see `Crops`): the same part of the noisy and the clean file."""

    def __init__(
        self,
        pairs: list[Pair],
        sample_rate_hz: int,
        samples: int,
        seed: int,
        labelled: frozenset[int] | None = None,
        taught: Taught | TaughtFiles | None = None,
    ) -> None:
        super().__init__([pair.samples for pair in pairs], sample_rate_hz, samples, seed, labelled, taught)
        self.pairs = pairs
        self.noisy = of_files([pair.noisy for pair in pairs], self.lengths, sample_rate_hz)
        self.clean = of_files([pair.clean for pair in pairs], self.lengths, sample_rate_hz)

    def decode(self, cache_dir: str | Path | None, most_gb: float) -> None:
        super().decode(cache_dir, most_gb)
        self.noisy, self.clean = (
            corpus.decode(self.sample_rate_hz, cache_dir, most_gb) for corpus in (self.noisy, self.clean)
        )

    def read(self, crop: Crop, labelled: bool) -> tuple[str, float, Tensor, Tensor]:
        pair = self.pairs[crop.place]
        pair.check()
        noisy = self.noisy.read(crop.place, self.sample_rate_hz, crop.start, crop.stop)
        clean = torch.zeros_like(noisy)
        if labelled:
            clean = self.clean.read(crop.place, self.sample_rate_hz, crop.start, crop.stop)
        return pair.name, pair.snr_db, noisy, clean


class PairedFolders(CropData):
    """Pairs of noisy and clean files: VoiceBank-DEMAND, the DNS-2020 synthetic test set, or any two folders.

    Files of equal relative path belong together, or files of equal DNS file id where the clean ones are called
    clean_fileid_<number>; else names that differ by the same prefix and suffix in all files (NAME_clean). Validation
    and test items are whole files. A pair may differ in length by 0.02 s. See `CropData` for the settings that it
    shares with `NoisyFolder`.

    Args:
        root: a folder with VoiceBank-DEMAND as distributed (noisy_testset_wav, clean_testset_wav and, to train,
            noisy_trainset_28spk_wav, clean_trainset_28spk_wav), or one with noisy/ and clean/ (as the DNS-2020 test
            set's synthetic/no_reverb), which is a test set.
        noisy: folder of noisy test files, instead of the one in root.
        clean: folder of the clean test files, instead of the one in root.
        train_noisy: folder of noisy training files, instead of the one in root.
        train_clean: folder of the clean training files, instead of the one in root.
        valid_speakers: training files of these speakers (file names up to the first _ or -) are held out for
            validation. None means p226 and p287 for VoiceBank-DEMAND in root, else valid_share decides.
        valid_share: without valid_speakers, this share of the training pairs is held out, by a hash of their names.
        labelled_share: share of the training pairs whose clean file is used. Below 1, training batches say which items
            are "labelled", and the clean speech of the others is zeros. A smaller share's pairs are among a larger's.
        labelled_seed: which pairs those are. Not the run's seed, so that a teacher and students of any seed agree.
    """

    def __init__(
        self,
        root: str | None = None,
        noisy: str | None = None,
        clean: str | None = None,
        train_noisy: str | None = None,
        train_clean: str | None = None,
        valid_speakers: list[str] | None = None,
        valid_share: float = 0.05,
        labelled_share: float = 1.0,
        labelled_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if root is None and noisy is clean is train_noisy is train_clean is None:
            raise UserError("give --data.root, or --data.noisy and --data.clean, or --data.train_noisy and _clean")
        if not 0 < valid_share < 1:
            raise UserError(f"--data.valid_share {valid_share}: must lie between 0 and 1")
        check_share(labelled_share, "labelled_share")
        self.root = None if root is None else Path(root)
        self.test_folders = given_together(("noisy", "clean"), noisy, clean)
        self.train_folders = given_together(("train_noisy", "train_clean"), train_noisy, train_clean)
        self.valid_speakers, self.valid_share = valid_speakers, valid_share
        self.labelled_share, self.labelled_seed = labelled_share, labelled_seed
        self._found: dict[str, list[Pair]] = {}

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of "train", "valid" or "test"; a ValueError if there are none, or as `find_pairs`."""
        if split not in self._found:
            if split == "test":
                self._found["test"] = self._find_test()
            else:
                self._found["train"], self._found["valid"] = self._find_training()
        return self._found[split]

    def train_dataloader(self) -> DataLoader[Any]:
        pairs = self.pairs("train")
        labelled: frozenset[int] | None = None
        if self.labelled_share < 1:
            labelled = labelled_places([pair.name for pair in pairs], self.labelled_share, self.labelled_seed)
        seed, taught = derive_seed(self.seed, "pairs"), self._taught(pairs)
        return self.crop_loader(CropSet(pairs, self.sample_rate_hz, self.segment_samples, seed, labelled, taught))

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out training pairs; the test pairs if no training folders were given."""
        if self._training_folders() is None:
            return self.test_dataloader()
        pairs = self.pairs("valid")
        return self.whole_loader(pairs, self._taught(pairs, required=False))

    def test_dataloader(self) -> DataLoader[Any]:
        return self.whole_loader(self.pairs("test"))

    def _taught(self, pairs: list[Pair], required: bool = True) -> Taught | TaughtFiles | None:
        recordings = [Recording(pair.name, pair.samples) for pair in pairs]
        return self.taught(recordings, [pair.noisy for pair in pairs], required)

    def _find_test(self) -> list[Pair]:
        if self.test_folders is not None:
            return find_pairs(*self.test_folders, self.sample_rate_hz, ("--data.noisy", "--data.clean"))
        if self.root is None:
            raise UserError("no test pairs: give --data.root, or --data.noisy and --data.clean")
        if not self.root.is_dir():
            raise UserError(f"--data.root {self.root}: no such folder")
        for noisy, clean in (VOICEBANK_TEST, ("noisy", "clean")):
            if (self.root / noisy).is_dir() or (self.root / clean).is_dir():
                flags = ("--data.root", "--data.root")
                return find_pairs(self.root / noisy, self.root / clean, self.sample_rate_hz, flags)
        raise UserError(
            f"--data.root {self.root}: holds neither {' and '.join(VOICEBANK_TEST)} nor noisy and clean; "
            "name the folders by --data.noisy and --data.clean"
        )

    def _training_folders(self) -> tuple[Path, Path] | None:
        if self.train_folders is not None:
            return self.train_folders
        if self.root is not None and any((self.root / name).is_dir() for name in VOICEBANK_TRAIN):
            return self.root / VOICEBANK_TRAIN[0], self.root / VOICEBANK_TRAIN[1]
        return None

    def _find_training(self) -> tuple[list[Pair], list[Pair]]:
        folders = self._training_folders()
        if folders is None:
            where = "" if self.root is None else f"--data.root {self.root}: "
            raise UserError(
                f"{where}no training pairs: give --data.root with {' and '.join(VOICEBANK_TRAIN)}, or "
                "--data.train_noisy and --data.train_clean"
            )
        own = self.train_folders is not None
        flags = ("--data.train_noisy", "--data.train_clean") if own else ("--data.root", "--data.root")
        pairs = find_pairs(*folders, self.sample_rate_hz, flags)
        wanted = set(self.valid_speakers or (() if own else VOICEBANK_VALID_SPEAKERS))
        if wanted:
            known = {speaker(pair) for pair in pairs}
            if missing := sorted(wanted - known):
                shown = ", ".join(sorted(known)[:8]) + (", ..." if len(known) > 8 else "")
                raise UserError(f"--data.valid_speakers {' '.join(missing)}: not in {folders[0]}; it has {shown}")
            valid = {pair.name for pair in pairs if speaker(pair) in wanted}
        else:
            ranked = sorted((pair.name for pair in pairs), key=lambda name: derive_seed(0, "valid", name))
            valid = set(ranked[: max(1, round(self.valid_share * len(pairs)))])
        train = [pair for pair in pairs if pair.name not in valid]
        if not train:
            raise UserError(f"{folders[0]}: holding out validation pairs leaves nothing to train on")
        return train, [pair for pair in pairs if pair.name in valid]
