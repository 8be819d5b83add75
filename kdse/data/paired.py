"""`PairedFolders`: recordings that come as noisy and clean files, as a LightningDataModule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from kdse.audio.files import read
from kdse.data.crops import crop_at, fill
from kdse.data.file_pairs import Pair, PairSet, find_pairs, pair_item, speaker
from kdse.data.labelled import check_share, labelled_places
from kdse.data.position import Key, ResumableData, check_positive
from kdse.data.taught import Recording, Taught, align_taught, check_alignment, find_taught
from kdse.seeding import derive_seed, run_seed

VOICEBANK_TRAIN = ("noisy_trainset_28spk_wav", "clean_trainset_28spk_wav")
VOICEBANK_TEST = ("noisy_testset_wav", "clean_testset_wav")
VOICEBANK_VALID_SPEAKERS = ("p226", "p287")


class CropSet(Dataset[dict[str, Any]]):
    """Training crops: item (epoch, index) is a pure function of pairs, seed, epoch and index (see `crop_at`).

    A pair shorter than the crop is repeated from its start, noisy and clean alike, so that no item holds padding.

    Args:
        pairs: what to crop.
        sample_rate_hz: of the items.
        samples: of an item.
        seed: of order and crops.
        labelled: places of the pairs whose clean file is used; the others' clean speech is zeros, and every item says
            which it is. None means all, and items say nothing.
        taught: the teacher's file for each pair; None for none.
    """

    def __init__(
        self,
        pairs: list[Pair],
        sample_rate_hz: int,
        samples: int,
        seed: int,
        labelled: frozenset[int] | None = None,
        taught: Taught | None = None,
    ) -> None:
        self.pairs, self.sample_rate_hz, self.samples, self.seed = pairs, sample_rate_hz, samples, seed
        self.labelled, self.taught = labelled, taught
        self.lengths = [pair.samples for pair in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        place, start, stop = crop_at(key, self.lengths, self.samples, self.seed)
        pair = self.pairs[place]
        pair.check()
        labelled = self.labelled is None or place in self.labelled
        noisy = fill(read(pair.noisy, self.sample_rate_hz, start, stop), self.samples)
        clean = torch.zeros_like(noisy)
        if labelled:
            clean = fill(read(pair.clean, self.sample_rate_hz, start, stop), self.samples)
        item = pair_item(pair, noisy, clean, f"{epoch}-{index:06d}-{pair.name}", index)
        if self.labelled is not None:
            item["labelled"] = torch.tensor(labelled)
        if self.taught is not None:
            item["taught"] = fill(self.taught.read(place, self.sample_rate_hz, start, stop), self.samples)
        return item


def pad_batch(items: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of items of any lengths, zeros after the end of the shorter; "samples" holds the valid lengths."""
    batch: dict[str, Any] = {"name": [item["name"] for item in items]}
    for key in ("noisy", "clean", *(["taught"] if "taught" in items[0] else [])):
        batch[key] = torch.nn.utils.rnn.pad_sequence([item[key] for item in items], batch_first=True)
    for key in ("snr_db", "samples", "index"):
        batch[key] = torch.stack([item[key] for item in items])
    return batch


class PairedFolders(ResumableData):
    """Pairs of noisy and clean files: VoiceBank-DEMAND, the DNS-2020 synthetic test set, or any two folders.

    Files of equal relative path belong together, or files of equal DNS file id where the clean ones are called
    clean_fileid_<number>. Validation and test items are whole files. A pair may differ in length by 0.02 s.

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
        segment_seconds: length of training crops; shorter files are repeated.
        batch_size: items a batch and process.
        steps_per_epoch: batches that make an epoch; None means once through the training pairs.
        num_workers: data processes.
        sample_rate_hz: of everything; other files (VoiceBank-DEMAND has 48 kHz) are resampled.
        seed: of order and crops; None means the run's seed_everything.
        labelled_share: share of the training pairs whose clean file is used. Below 1, training batches say which items
            are "labelled", and the clean speech of the others is zeros. A smaller share's pairs are among a larger's.
        labelled_seed: which pairs those are. Not the run's seed, so that a teacher and students of any seed agree.
        teacher_folder: files that any system made of the noisy training files, of the same relative names. Training
            batches then carry them as "taught", and so do validation batches if the folder holds the held-out files
            too. Up to 0.1 s more or less at the end is cut or filled with zeros.
        teacher_delay_samples: how late those files are, at this rate; None measures it and says so in the log.
        teacher_gain: their level, which is divided out; None measures it (within 1 dB it is left alone), 1 leaves it.
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
        segment_seconds: float = 2.0,
        batch_size: int = 16,
        steps_per_epoch: int | None = None,
        num_workers: int = 0,
        sample_rate_hz: int = 16000,
        seed: int | None = None,
        labelled_share: float = 1.0,
        labelled_seed: int = 0,
        teacher_folder: str | None = None,
        teacher_delay_samples: int | None = None,
        teacher_gain: float | None = None,
    ) -> None:
        super().__init__()
        for one, other, a, b in (
            ("noisy", "clean", noisy, clean),
            ("train_noisy", "train_clean", train_noisy, train_clean),
        ):
            if (a is None) != (b is None):
                raise ValueError(f"--data.{one} and --data.{other} go together: give both or neither")
        if root is None and noisy is None and train_noisy is None:
            raise ValueError("give --data.root, or --data.noisy and --data.clean, or --data.train_noisy and _clean")
        check_positive(batch_size=batch_size, segment_seconds=segment_seconds, sample_rate_hz=sample_rate_hz)
        check_positive(steps_per_epoch=1 if steps_per_epoch is None else steps_per_epoch)
        check_positive(or_zero=True, num_workers=num_workers)
        if not 0 < valid_share < 1:
            raise ValueError(f"--data.valid_share {valid_share}: must lie between 0 and 1")
        check_share(labelled_share)
        self.root = None if root is None else Path(root)
        self.test_folders = None if noisy is None or clean is None else (Path(noisy), Path(clean))
        self.train_folders = (
            None if train_noisy is None or train_clean is None else (Path(train_noisy), Path(train_clean))
        )
        self.valid_speakers, self.valid_share = valid_speakers, valid_share
        self.segment_seconds, self.batch_size, self.steps_per_epoch = segment_seconds, batch_size, steps_per_epoch
        self.num_workers, self.sample_rate_hz = num_workers, sample_rate_hz
        self.seed = run_seed() if seed is None else seed
        self.labelled_share, self.labelled_seed, self.teacher_folder = labelled_share, labelled_seed, teacher_folder
        self.teacher_alignment = check_alignment(teacher_delay_samples, teacher_gain)
        self._found: dict[str, list[Pair]] = {}

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of "train", "valid" or "test".

        Raises:
            ValueError: if there are none, or as `find_pairs`.
        """
        if split not in self._found:
            if split == "test":
                self._found["test"] = self._find_test()
            else:
                self._found["train"], self._found["valid"] = self._find_training()
        return self._found[split]

    def train_dataloader(self) -> DataLoader[Any]:
        pairs = self.pairs("train")
        _, world = self.rank_and_world()
        steps = self.steps_per_epoch or max(1, len(pairs) // (self.batch_size * world))
        samples = round(self.segment_seconds * self.sample_rate_hz)
        labelled: frozenset[int] | None = None
        if self.labelled_share < 1:
            labelled = labelled_places([pair.name for pair in pairs], self.labelled_share, self.labelled_seed)
        taught = self._taught(pairs, required=True)
        crops = CropSet(pairs, self.sample_rate_hz, samples, derive_seed(self.seed, "pairs"), labelled, taught)
        return self.loader(crops, batch_sampler=self.batches(steps, self.batch_size))

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out training pairs; the test pairs if no training folders were given."""
        if self._training_folders() is None:
            return self._whole(self.pairs("test"))
        pairs = self.pairs("valid")
        return self._whole(pairs, self._taught(pairs, required=False))

    def test_dataloader(self) -> DataLoader[Any]:
        return self._whole(self.pairs("test"))

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.test_dataloader()

    def _whole(self, pairs: list[Pair], taught: Taught | None = None) -> DataLoader[Any]:
        items = PairSet(pairs, self.sample_rate_hz, taught)
        return self.shared_loader(items, self.batch_size, pad_batch)

    def _taught(self, pairs: list[Pair], required: bool) -> Taught | None:
        if self.teacher_folder is None:
            return None
        recordings = [Recording(pair.name, pair.samples) for pair in pairs]
        files = find_taught(self.teacher_folder, recordings, self.sample_rate_hz, required)
        if files is None:
            return None
        return align_taught(files, [pair.noisy for pair in pairs], self.sample_rate_hz, *self.teacher_alignment)

    def _find_test(self) -> list[Pair]:
        if self.test_folders is not None:
            return find_pairs(*self.test_folders, self.sample_rate_hz, ("--data.noisy", "--data.clean"))
        if self.root is None:
            raise ValueError("no test pairs: give --data.root, or --data.noisy and --data.clean")
        if not self.root.is_dir():
            raise ValueError(f"--data.root {self.root}: no such folder")
        for noisy, clean in (VOICEBANK_TEST, ("noisy", "clean")):
            if (self.root / noisy).is_dir() or (self.root / clean).is_dir():
                flags = ("--data.root", "--data.root")
                return find_pairs(self.root / noisy, self.root / clean, self.sample_rate_hz, flags)
        raise ValueError(
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
            raise ValueError(
                f"{where}no training pairs: give --data.root with {' and '.join(VOICEBANK_TRAIN)}, or "
                "--data.train_noisy and --data.train_clean"
            )
        own = self.train_folders is not None
        flags = ("--data.train_noisy", "--data.train_clean") if own else ("--data.root", "--data.root")
        pairs = find_pairs(*folders, self.sample_rate_hz, flags)
        speakers = self.valid_speakers or ([] if own else list(VOICEBANK_VALID_SPEAKERS))
        if speakers:
            valid = {p.name for p in pairs if speaker(p) in speakers}
            missing = sorted(set(speakers) - {speaker(p) for p in pairs})
            if missing:
                known = sorted({speaker(p) for p in pairs})
                shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
                raise ValueError(f"--data.valid_speakers {' '.join(missing)}: not in {folders[0]}; it has {shown}")
        else:
            count = max(1, round(self.valid_share * len(pairs)))
            ranked = sorted(pairs, key=lambda p: derive_seed(0, "valid", p.name))
            valid = {p.name for p in ranked[:count]}
        train = [p for p in pairs if p.name not in valid]
        if not train:
            raise ValueError(f"{folders[0]}: holding out validation pairs leaves nothing to train on")
        return train, [p for p in pairs if p.name in valid]
