"""Which items each batch holds, and going on in the middle of an epoch.

Lightning restarts an epoch's loader from its beginning after a mid-epoch resume; here the position is part of the
data module's state and counts consumed batches, not prefetched ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

Key = tuple[int, int]


class Batches(Sampler[list[Key]]):
    """Yields one list of (epoch, index) keys a batch; a pure function of epoch, rank and position.

    Index ``(step * world + rank) * batch_size + i``: the processes of a run see disjoint parts of what one process
    with the global batch would see.

    Args:
        steps: batches an epoch.
        batch_size: items a batch and process.
        rank, world: this process among how many.
    """

    def __init__(self, steps: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.steps, self.batch_size, self.rank, self.world = steps, batch_size, rank, world
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, start = self.epoch, self.start
        self.epoch, self.start = epoch + 1, 0
        for step in range(start, self.steps):
            first = (step * self.world + self.rank) * self.batch_size
            yield [(epoch, first + i) for i in range(self.batch_size)]


def position(trainer: Any) -> dict[str, int]:
    """Consumed batches so far, as a data module's state."""
    seen = trainer.fit_loop.epoch_loop.batch_progress.total.processed
    return {"batches_seen": int(seen), "batches_per_epoch": int(trainer.num_training_batches)}


def move_to(batches: Batches, state: dict[str, int]) -> None:
    """Puts a sampler where a stored position says."""
    batches.epoch, batches.start = divmod(state["batches_seen"], max(1, state["batches_per_epoch"]))
