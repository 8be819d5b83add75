"""`PairSet`: pairs of noisy and clean files as items, without Lightning: `kdse evaluate` must start fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdse.data.audio import read
from kdse.data.pairs import Pair

if TYPE_CHECKING:
    from kdse.data.taught import Taught


class PairSet(Dataset[dict[str, Any]]):
    """Whole files: item i is the i-th pair at ``sample_rate_hz``, with the teacher's file if there are any."""

    def __init__(self, pairs: list[Pair], sample_rate_hz: int, taught: Taught | None = None) -> None:
        self.pairs, self.sample_rate_hz, self.taught = pairs, sample_rate_hz, taught

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.pairs[index]
        pair.check()
        noisy = read(pair.noisy, self.sample_rate_hz)[: pair.samples]
        clean = read(pair.clean, self.sample_rate_hz)[: pair.samples]
        item = pair_item(pair, noisy, clean, pair.name, index)
        if self.taught is not None:
            item["taught"] = self.taught.read(index, self.sample_rate_hz, 0, noisy.numel())
        return item


def pair_item(pair: Pair, noisy: Tensor, clean: Tensor, name: str, index: int) -> dict[str, Any]:
    """One item of a batch: audio ``[N]``, what is known of it, and its place in the epoch."""
    return {
        "noisy": noisy,
        "clean": clean,
        "snr_db": torch.tensor(pair.snr_db, dtype=torch.float32),
        "samples": torch.tensor(noisy.numel()),
        "name": name,
        "index": torch.tensor(index),
    }
