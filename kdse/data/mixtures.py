"""`Mixtures`: a LightningDataModule that mixes speech and noise from folders on the fly, in rooms if wanted."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from kdse.audio.levels import SNR_DEFINITIONS
from kdse.data.corpus.corpora import Corpus, corpus_root, part_of, scan
from kdse.data.corpus.decoded import CACHE_GB
from kdse.data.labelled import check_share, labelled_places
from kdse.data.mixture_set import MixtureSet, Plan, Plans, Resident, as_it_is
from kdse.data.position import ResumableData, check_positive
from kdse.data.taught_set import TaughtSet, data_seed
from kdse.errors import UserError
from kdse.seeding import derive_seed

log = logging.getLogger(__name__)


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
        num_workers: data processes; with decoded recordings none are needed, a batch takes a few per cent of a step.
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
        cache_gb: the training recordings are decoded once, into a copy on disk that all later runs map into memory, if
            that takes at most so many GB for the speech and for the noise; 0 reads the files. Mixtures are the same,
            to float32's rounding where recordings are resampled.
        cache_dir: folder of the cache; None means the environment variable KDSE_CACHE, else ~/.cache/kdse.
        on_accelerator: keep that copy in the accelerator's memory and mix training batches there; what is drawn stays
            the same, and values to float32's rounding.
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
        cache_gb: float = CACHE_GB,
        cache_dir: str | None = None,
        on_accelerator: bool = False,
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
        check_positive(or_zero=True, early_ms=early_ms, num_workers=num_workers, cache_gb=cache_gb)
        if snr_definition == "lufs" and min(segment_seconds, validation_seconds) < 0.4:
            raise UserError("--data.snr_definition lufs: needs segments and validation items of at least 0.4 s")
        check_share(reverb_share, "reverb_share")
        if on_accelerator and (cache_gb == 0 or snr_definition == "lufs"):
            why = "--data.cache_gb=0 has no decoded copy" if cache_gb == 0 else "LUFS is measured sample by sample"
            raise UserError(f"--data.on_accelerator: {why}; leave one of them out")
        self.root, self.manifest, self.shard_cache = root, manifest, shard_cache
        self.snr_db, self.snr_definition, self.level_dbfs = list(snr_db), snr_definition, list(level_dbfs)
        self.reverb_share, self.early_ms = reverb_share, early_ms
        self.segment_seconds, self.validation_seconds = segment_seconds, validation_seconds
        self.batch_size, self.steps_per_epoch, self.num_workers = batch_size, steps_per_epoch, num_workers
        self.validation_items, self.test_snr_db, self.test_items = validation_items, list(test_snr_db), test_items
        self.minimum_active_dbfs, self.sample_rate_hz = minimum_active_dbfs, sample_rate_hz
        self.seed, self.taught_set = data_seed(seed, taught_set), taught_set
        if on_accelerator and taught_set is not None:
            raise UserError("--data.on_accelerator: mixes where no taught set is; leave it or --data.taught_set out")
        if taught_set is not None and TaughtSet(taught_set).of_files:
            raise UserError(
                f"--data.taught_set {taught_set}: was taught on a folder of recordings, not on mixtures; run `kdse "
                "teach --config` with this config"
            )
        self.labelled_share, self.labelled_seed = labelled_share, labelled_seed
        self.cache_gb, self.cache_dir, self.on_accelerator = cache_gb, cache_dir, on_accelerator
        self._resident: Resident | None = None
        self._told = False
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
        items = items.decoded(self.cache_dir, self.cache_gb)
        if not self.on_accelerator:
            return self.training_loader(items, self.steps_per_epoch, self.batch_size)
        self._resident = Resident(items)
        batches = self.batches(self.steps_per_epoch, self.batch_size)
        return self.loader(Plans(items), batch_sampler=batches, collate_fn=as_it_is)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch, or mixes it there."""
        if not isinstance(batch, Plan):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        assert self._resident is not None  # (plans are what `train_dataloader` gives with one)
        if device.type == "cpu" and not self._told:
            self._told = True
            log.warning("--data.on_accelerator: this run has none; batches are mixed on the CPU, as without it")
        return self._resident.on(device).mixed(batch)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._fixed("valid", self.snr_db, self.validation_items, False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._fixed("test", self.test_snr_db, self.test_items * len(self.test_snr_db), True)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.test_dataloader()

    def _fixed(self, split: str, snr_db: list[float], items: int, cycle_snr: bool) -> DataLoader[Any]:
        samples = round(self.validation_seconds * self.sample_rate_hz)
        return self.shared_loader(self.mixture_set(split, snr_db, samples, items, cycle_snr), self.batch_size)
