"""Validation, test and predict items shared among the processes of a run, every item once.

Whole batches are shared, the very ones that one process alone would make: an item then has the same neighbours (and
padding) and the same estimate, bit for bit, on however many processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    default_collate,
)

from kdse.internals.lightning import own_batch_sampler

if TYPE_CHECKING:
    import lightning as L

Collate = Callable[[list[dict[str, Any]]], dict[str, Any]]


class SharedBatches(Sampler[list[int]]):
    """Batches of item numbers in order, of which this process gets the numbers rank, rank + world, and so on.

    Nothing is repeated to even out the ends. A process with no batch gets one of no items, because Lightning leaves out
    the whole validation, with all that the processes do together in it, where there is no batch.

    Args:
        items: how many there are.
        batch_size: items a batch; the last may have fewer.
        rank, world: this process among how many.
        limit: batches of all processes together; None for all.
    """

    def __init__(self, items: int, batch_size: int, rank: int = 0, world: int = 1, limit: int | None = None) -> None:
        self.items, self.size = items, batch_size
        count = math.ceil(items / batch_size)
        self.mine = range(rank, count if limit is None else min(count, limit), world)
        self.idle = not self.mine and world > 1

    def __len__(self) -> int:
        return len(self.mine) or int(self.idle)

    def __iter__(self) -> Iterator[list[int]]:
        for number in self.mine:
            yield list(range(number * self.size, min((number + 1) * self.size, self.items)))
        if self.idle:
            yield []


class CollateOrNothing:
    """A collate function that makes of no items a batch of no items."""

    def __init__(self, collate: Collate | None = None) -> None:
        self.collate = default_collate if collate is None else collate

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if items:
            batch: dict[str, Any] = self.collate(items)
            return batch
        none = torch.zeros(0)
        whole = torch.zeros(0, dtype=torch.long)
        return {
            "noisy": none[:, None],
            "clean": none[:, None],
            "snr_db": none,
            "samples": whole,
            "index": whole,
            "name": [],
        }


def limit_of(trainer: L.Trainer) -> int | None:
    """How many batches the trainer's limit leaves to all processes together; None for all.

    Raises:
        ValueError: for a share of the batches among several processes, of each of which Lightning would take it.
    """
    stage = "test" if trainer.testing else "predict" if trainer.predicting else "val"
    limit = getattr(trainer, f"limit_{stage}_batches")
    if isinstance(limit, int):
        return limit
    if limit not in (None, 1.0) and trainer.world_size > 1:
        raise ValueError(
            f"--trainer.limit_{stage}_batches={limit}: a share is taken of each process's batches, so that the number "
            "of processes would decide what is measured; give a number of batches"
        )
    return None


def same_on_every_process(loader: object) -> bool:
    """Whether a loader certainly gives each process all items: a plain order, or a shuffled one of the same seed."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    batches = own_batch_sampler(loader)
    if batches is not None and type(batches) is not BatchSampler:
        return False
    order = loader.sampler if batches is None else batches.sampler
    return type(order) in (SequentialSampler, RandomSampler)


def check_shared(trainer: L.Trainer, loaders: object, stage: str) -> None:
    """Refuses training and predict loaders that give every process of a run the same items.

    Raises:
        ValueError: naming the fix.
    """
    if trainer.world_size == 1:
        return
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        if same_on_every_process(loader):
            raise ValueError(
                f"--data: its {stage} loader gives each of the {trainer.world_size} processes the same items; share "
                "them by --trainer.use_distributed_sampler=true, or by a DistributedSampler of your own"
            )
