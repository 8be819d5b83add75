"""`Batch` and `Item`: the keys that data modules give and training reads, their shapes and units."""

from __future__ import annotations

from typing import Required, TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Audio(TypedDict, total=False):
    """What an item and a batch have in common: B items of N samples; an item has no axis B.

    noisy: ``[B, N]`` float32, the model's input, full scale 1.0; zeros after the end of an item shorter than N.
    clean: ``[B, N]``, the target; absent where no item has one, zeros for an item that is not labelled.
    taught: ``[B, N]``, what a recorded teacher made of "noisy"; absent without ``--data.teacher_folder``.
    snr_db: ``[B]``, SNR of "noisy" in dB; NaN where it is unknown.
    samples: ``[B]`` int64, length of each item without padding; absent: all of them are N long.
    labelled: ``[B]`` bool, whether "clean" of an item may be used; absent: all of them.
    index: ``[B]`` int64, place of each item in its epoch.
    """

    noisy: Required[Tensor]
    clean: Tensor
    taught: Tensor
    snr_db: Tensor
    samples: Tensor
    labelled: Tensor
    index: Tensor


class Item(Audio, total=False):
    """One training crop, mixture or whole file, and its name: unique within an epoch, in score tables and on files."""

    name: str


class Batch(Audio, total=False):
    """Items of a batch with their B names; a data module of your own needs to give "noisy" only."""

    name: list[str]


def make_item(noisy: Tensor, clean: Tensor | None, snr_db: float, name: str, index: int) -> Item:
    """An item of ``[N]`` audio; without clean speech the key is left out."""
    item: Item = {
        "noisy": noisy,
        "snr_db": torch.tensor(snr_db, dtype=torch.float32),
        "samples": torch.tensor(noisy.numel()),
        "name": name,
        "index": torch.tensor(index),
    }
    if clean is not None:
        item["clean"] = clean
    return item


def pad_batch(items: list[Item]) -> Batch:
    """A batch of pairs of any lengths, zeros after the end of the shorter; "samples" holds their lengths."""
    batch: Batch = {
        "noisy": pad_sequence([item["noisy"] for item in items], batch_first=True),
        "clean": pad_sequence([item["clean"] for item in items], batch_first=True),
        "snr_db": torch.stack([item["snr_db"] for item in items]),
        "samples": torch.stack([item["samples"] for item in items]),
        "index": torch.stack([item["index"] for item in items]),
        "name": [item["name"] for item in items],
    }
    if "taught" in items[0]:
        batch["taught"] = pad_sequence([item["taught"] for item in items], batch_first=True)
    return batch


def empty_batch() -> Batch:
    """A batch of no items."""
    numbers, counts = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    return {
        "noisy": numbers[:, None],
        "clean": numbers[:, None],
        "snr_db": numbers,
        "samples": counts,
        "index": counts,
        "name": [],
    }
