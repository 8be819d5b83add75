"""Shares validation, test and predict items among the processes of a run, every item once.

Whole batches are shared, those that one process alone would make: an item then has the same neighbours (and padding)
and the same estimate, bit for bit, on however many processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler
from torch.utils.data import default_collate as torch_collate

from kdse.data.batch import Batch, Item, empty_batch
from kdse.errors import UserError
from kdse.internals.lightning import own_batch_sampler

if TYPE_CHECKING:
    import lightning as L

Collate = Callable[[list[Item]], Batch]


class SharedBatches(Sampler[list[int]]):
    """Batches of item numbers in order, of which this process gets number rank, rank + world, and so on.

    Nothing is repeated to even out the ends. A process without a share gets one batch of no items: without any,
    Lightning would leave out the validation, and with it what the processes do together.

    The last batch may have fewer than ``batch_size`` of the ``items``; ``limit`` counts the batches of all processes.
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
        self.collate: Collate = torch_collate if collate is None else collate

    def __call__(self, items: list[Item]) -> Batch:
        return self.collate(items) if items else empty_batch()


def limit_of(trainer: L.Trainer) -> int | None:
    """How many batches the trainer's limit leaves to all processes together; None for all.

    A ValueError for a share of the batches, which Lightning would take of those of each process.
    """
    stage = "test" if trainer.testing else "predict" if trainer.predicting else "val"
    limit = getattr(trainer, f"limit_{stage}_batches")
    if isinstance(limit, int):
        return limit
    if limit not in (None, 1.0) and trainer.world_size > 1:
        raise UserError(
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
    """Refuses training and predict loaders that give every process of a run the same items."""
    if trainer.world_size == 1:
        return
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        if same_on_every_process(loader):
            raise UserError(
                f"--data: its {stage} loader gives each of the {trainer.world_size} processes the same items; share "
                "them by --trainer.use_distributed_sampler=true, or by a DistributedSampler of your own"
            )
