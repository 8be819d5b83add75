"""`PairSet`: whole pairs of noisy and clean files as items of a data set.

Without Lightning: `kdse evaluate` must start fast.
"""

from __future__ import annotations

from torch.utils.data import Dataset

from kdse.audio.files import read
from kdse.data.batch import Item, make_item
from kdse.data.file_pairs import Pair
from kdse.data.taught import Taught
from kdse.data.taught_set import TaughtFiles


class PairSet(Dataset[Item]):
    """Whole files: item i is the i-th pair at ``sample_rate_hz``, with the teacher's file if there are any."""

    def __init__(self, pairs: list[Pair], sample_rate_hz: int, taught: Taught | TaughtFiles | None = None) -> None:
        self.pairs, self.sample_rate_hz, self.taught = pairs, sample_rate_hz, taught

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Item:
        pair = self.pairs[index]
        pair.check()
        noisy, clean = (read(file, self.sample_rate_hz)[: pair.samples] for file in (pair.noisy, pair.clean))
        item = make_item(noisy, clean, pair.snr_db, pair.name, index)
        if self.taught is not None:
            item["taught"] = self.taught.read(index, self.sample_rate_hz, 0, noisy.numel())
        return item
