"""Gathering of scores and losses from the processes of a run; each item counts once."""

from __future__ import annotations

import math
import zlib
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from kdse.data.batch import Batch, item_lengths
from kdse.distributed import world_size
from kdse.metrics.table import Row, once

T = TypeVar("T")


def gather_lists(mine: list[T]) -> list[T]:
    """The lists of all processes as one, in rank order; just ``mine`` without a process group."""
    if world_size() == 1:
        return mine
    gathered: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(gathered, mine)
    return [entry for part in gathered for entry in part]


def gather_rows(rows: list[Row]) -> list[Row]:
    """The rows of all processes by system and name, without repeats: the same list on any number of processes."""
    return once(sorted(gather_lists(rows), key=lambda row: (row.system, row.name)))


def item_names(batch: Batch) -> list[str]:
    """The unique names of a batch's items: its "name", else a checksum of each item's noisy audio without padding."""
    if batch.get("name") is not None:
        return [str(name) for name in batch["name"]]
    noisy_bn = batch["noisy"].detach().float().cpu().numpy()
    lengths = item_lengths(batch)
    return [f"{zlib.crc32(noisy[:n].tobytes()):08x}" for noisy, n in zip(noisy_bn, lengths, strict=True)]


class ItemLosses:
    """The loss of every item of an epoch; their mean does not depend on batches, processes or order."""

    def __init__(self) -> None:
        self._found: dict[str, float] = {}

    def add(self, names: list[str], losses: list[Tensor]) -> None:
        """Takes the losses of some items, each a scalar."""
        for name, loss in zip(names, losses, strict=True):
            self._found.setdefault(name, float(loss))

    def compute(self) -> float | None:
        """Ends the epoch: the mean over the items of all processes, each once (summed exactly); None without any."""
        found, self._found = self._found, {}
        losses = dict(reversed(gather_lists(list(found.items()))))  # (of repeats the first counts, as among rows)
        return math.fsum(losses.values()) / len(losses) if losses else None
