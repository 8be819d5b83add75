"""`Batch` and `Item`: the keys that data modules give and training reads, their shapes and units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Required, TypedDict, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

#: The keys that hold waveforms ``[B, N]``.
WAVES = ("noisy", "clean", "taught")


class Audio(TypedDict, total=False):
    """What an item and a batch have in common: B items of N samples; an item has no axis B.

    noisy: ``[B, N]`` float32, the model's input, full scale 1.0; zeros after the end of an item shorter than N.
    clean: ``[B, N]``, the target; absent where no item has one, zeros for an item that is not labelled.
    taught: ``[B, N]``, what a recorded teacher made of "noisy", or ``[B, T, N]`` of T teachers; absent without
        ``--data.teacher_folder`` or ``--data.taught_set``.
    taught_taps: activations of that teacher by tap name, ``[B, C, T, F]`` in half precision; absent if none are stored.
    snr_db: ``[B]``, SNR of "noisy" in dB; NaN where it is unknown.
    samples: ``[B]`` int64, length of each item without padding; absent: all of them are N long.
    labelled: ``[B]`` bool, whether "clean" of an item may be used; absent: all of them.
    index: ``[B]`` int64, place of each item in its epoch.
    """

    noisy: Required[Tensor]
    clean: Tensor
    taught: Tensor
    taught_taps: dict[str, Tensor]
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
        # (pads the first axis, which is time; teachers come before it in the batch)
        taught = pad_sequence([item["taught"].movedim(-1, 0) for item in items], batch_first=True)
        batch["taught"] = taught.movedim(1, -1)
    return batch


def item_lengths(batch: Batch) -> list[int]:
    """The samples of each of a batch's items without padding."""
    if batch.get("samples") is not None:
        return batch["samples"].tolist()
    return [batch["noisy"].shape[-1]] * len(batch["noisy"])


def by_length(batch: Batch) -> Iterator[tuple[list[int], Batch]]:
    """The items of a batch in batches of equal length without padding, each with its items' places in the batch.

    A model that hears the whole clip, or pads it itself, hears the padding of a batch too: only so is an estimate that
    of the item alone. A batch without padding comes back as it is; one of no items gives nothing.
    """
    places: dict[int, list[int]] = {}
    for place, length in enumerate(item_lengths(batch)):
        places.setdefault(length, []).append(place)
    for length, rows in places.items():
        if len(places) == 1 and length == batch["noisy"].shape[-1]:
            yield rows, batch
            return
        part = {key: _rows(value, rows, length if key in WAVES else None) for key, value in batch.items()}
        yield rows, cast(Batch, part)


def _rows(value: Any, rows: list[int], length: int | None) -> Any:
    """Some items of a value that a batch has for all of them; waveforms of a given length."""
    if isinstance(value, Tensor):
        return value[rows][..., :length] if length is not None else value[rows]
    return [value[row] for row in rows]


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
