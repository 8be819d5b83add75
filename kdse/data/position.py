"""`ResumableData`: a data module that shares its items among processes and goes on in the middle of an epoch.

Lightning restarts an epoch's loader from its beginning after a resume; here the position is part of the data module's
state, and counts consumed batches, not prefetched ones.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from kdse.data.shared import Collate, CollateOrNothing, SharedBatches, limit_of
from kdse.data.taught_set import TaughtItems, TaughtSet
from kdse.errors import UserError
from kdse.internals.lightning import CUSTOM_SAMPLER, MID_EPOCH, batches_processed, hide_warning, shares_samplers

log = logging.getLogger(__name__)

Key = tuple[int, int]
#: How long data processes outlive SIGTERM: longer than an optimizer step.
STAY_SECONDS = 30


class Batches(Sampler[list[Key]]):
    """Training batches as lists of (epoch, index) keys: a pure function of epoch, rank and position.

    Item i of a batch has index ``(step * world + rank) * batch_size + i``: the ``world`` processes of a run see
    disjoint parts of what one process with the global batch would see. An epoch has ``steps`` batches. With ``taught``
    the items of that set come instead, one after another and again and again.
    """

    def __init__(
        self, steps: int, batch_size: int, rank: int = 0, world: int = 1, taught: TaughtSet | None = None
    ) -> None:
        self.steps, self.batch_size, self.rank, self.world, self.taught = steps, batch_size, rank, world, taught
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        for step in range(start, self.steps):
            first = (step * self.world + self.rank) * self.batch_size
            keys = [(epoch, first + i) for i in range(self.batch_size)]
            items = self.steps * self.batch_size * self.world
            yield keys if self.taught is None else [self.taught.key(e * items + i) for e, i in keys]


def position(trainer: L.Trainer) -> dict[str, int]:
    """Consumed batches so far, as a data module's state."""
    return {"batches_seen": batches_processed(trainer), "batches_per_epoch": int(trainer.num_training_batches)}


def move_to(batches: Batches, state: dict[str, int]) -> None:
    """Puts a sampler where a stored position says."""
    batches.epoch, batches.start = divmod(state["batches_seen"], max(1, state["batches_per_epoch"]))


class ResumableData(L.LightningDataModule):
    """A data module whose processes share its items, and whose training goes on where a checkpoint was written."""

    num_workers: int = 0
    labelled_share: float = 1.0  # of the training items that have clean speech
    same_data_only: bool = False  # refuse other recordings or processes than a checkpoint's, not only say so
    taught_set: str | None = None  # folder of what `kdse teach` wrote
    #: The settings that the audio of a training item depends on, besides its recordings, seed, epoch and index.
    item_settings: tuple[str, ...] = ("sample_rate_hz", "segment_seconds")

    def __init__(self) -> None:
        super().__init__()
        self._restored: dict[str, int] | None = None

    def fingerprint(self) -> str | None:
        """What training items depend on besides the settings: a digest of the recordings' names and lengths."""
        return None

    def taught_by(self, items: Any) -> dict[str, Any]:
        """What the audio of a training item depends on besides epoch and index: a taught set is of the same."""
        settings = {name: getattr(self, name, None) for name in ("seed", *self.item_settings)}
        return {**settings, "recordings": self.fingerprint()}

    def setup(self, stage: str) -> None:
        if self.trainer is None or self.trainer.world_size == 1:
            return
        if shares_samplers(self.trainer):
            raise UserError(
                "--trainer.use_distributed_sampler=true: this data shares its items among the processes itself; leave "
                "the flag at false"
            )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch, but for ``labelled``: the host decides by it, and would wait for the device to read it."""
        kept = {"labelled": batch["labelled"].cpu()} if "labelled" in batch else {}
        return {**super().transfer_batch_to_device(batch, device, dataloader_idx), **kept}

    def rank_and_world(self) -> tuple[int, int]:
        """This process among how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def training_loader(self, items: Any, steps: int, batch_size: int) -> DataLoader[Any]:
        """A loader of training items; those of the taught set if there is one, with what was taught of them."""
        taught = None if self.taught_set is None else TaughtSet(self.taught_set)
        if taught is not None and not taught.of_files:
            taught.require_complete().require_same(self.taught_by(items))
            items = TaughtItems(items, taught)
        else:
            taught = None
        return self.loader(items, batch_sampler=self.batches(steps, batch_size, taught))

    def batches(self, steps: int, batch_size: int, taught: TaughtSet | None = None) -> Batches:
        """The training sampler, at the stored position after a resume, else at the trainer's epoch."""
        batches = Batches(steps, batch_size, *self.rank_and_world(), taught)
        if self._restored is not None:
            move_to(batches, self._restored)
            self._restored = None
        elif self.trainer is not None:
            batches.epoch = self.trainer.current_epoch
        return batches

    def shared_loader(self, items: Any, batch_size: int, collate: Collate | None = None) -> DataLoader[Any]:
        """A loader of validation, test or predict items that gives each process its share of the batches, in order."""
        limit = limit_of(self.trainer) if self.trainer is not None else None
        batches = SharedBatches(len(items), batch_size, *self.rank_and_world(), limit)
        hide_warning(CUSTOM_SAMPLER)
        return self.loader(items, batch_sampler=batches, collate_fn=CollateOrNothing(collate))

    def loader(self, items: Dataset[Any], **settings: Any) -> DataLoader[Any]:
        """A loader with `num_workers` processes.

        They come from a fork server, which imports torch once for all: forks of this process, with its threads, could
        deadlock. Batches for a GPU are made in pinned memory, from which they are copied while it computes.
        """
        if self.num_workers > 0:
            preloaded = ["kdse.data.forkserver", "kdse.data.mixtures", "kdse.data.paired"]
            multiprocessing.get_context("forkserver").set_forkserver_preload(preloaded)
            settings |= {"persistent_workers": True, "prefetch_factor": 4, "multiprocessing_context": "forkserver"}
            settings |= {"worker_init_fn": outlive_signals}
        strategy = getattr(self.trainer, "strategy", None)
        pinned = strategy is not None and strategy.root_device.type == "cuda"
        return DataLoader(items, num_workers=self.num_workers, pin_memory=pinned, **settings)

    def state_dict(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        return {**position(self.trainer), "processes": self.trainer.world_size, "recordings": self.fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self._compare(state_dict.get("processes"), state_dict.get("recordings"))
        # Lightning looks for a stateful loader and does not know that the sampler goes on where it was
        hide_warning(MID_EPOCH)

    def _compare(self, processes: int | None, recordings: str | None) -> None:
        """Says what differs from the run that wrote a checkpoint; with `same_data_only` a ValueError."""
        problems: list[str] = []
        _, world = self.rank_and_world()
        if processes not in (None, world):
            problems.append(f"trained by {processes} processes and not {world}")
        if recordings is not None and recordings != self.fingerprint():
            problems.append("trained on other recordings (names or lengths of speech, noise or rooms differ)")
        for problem in problems:
            if self.same_data_only:
                raise UserError(
                    f"--resume: this run was {problem}; give what it began with, or --ckpt_path to go on with these"
                )
            log.warning("--ckpt_path: this checkpoint was %s; training items from here on are other ones", problem)


def outlive_signals(_: int) -> None:
    """Lets a data process serve the step at which a signal to the whole job stops the run; then it ends as well."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # (not ignored: torch ends a process that does not end by itself with it, and waits)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(STAY_SECONDS))


def check_positive(or_zero: bool = False, **settings: float) -> None:
    """Raises a ValueError naming the first setting of the data module that is not above zero (or not at least)."""
    for name, value in settings.items():
        if not (value > 0 or (or_zero and value == 0)):
            raise UserError(f"--data.{name} {value}: must be {'at least 0' if or_zero else 'positive'}")
