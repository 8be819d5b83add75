"""Training crops of whole recordings: which file, which part, and how a short one is filled."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from kdse.data.position import Key
from kdse.seeding import derive_seed


class Crop(NamedTuple):
    """Samples ``[start, stop)`` of the recording number ``place``."""

    place: int
    start: int
    stop: int


def crop_at(key: Key, lengths: Sequence[int] | np.ndarray, samples: int, seed: int) -> Crop:
    """The crop of item (epoch, index): a pure function of its arguments.

    Every epoch goes through all recordings in a new order, then through them again in another if it is longer than
    that. A recording shorter than the crop is taken whole.

    Args:
        key: (epoch, index).
        lengths: samples of each recording.
        samples: of a crop.
        seed: of order and crops.
    """
    epoch, index = key
    lap, position = divmod(index, len(lengths))
    place = int(_order(len(lengths), derive_seed(seed, "order", epoch, lap))[position])
    rng = np.random.Generator(np.random.Philox(derive_seed(seed, "crop", epoch, index)))
    length = int(lengths[place])
    start = int(rng.integers(length - samples + 1)) if length > samples else 0
    return Crop(place, start, start + min(samples, length))


def fill(wave: Tensor, samples: int) -> Tensor:
    """``[N]`` repeated from its start until it has ``samples``, so that no item holds padding."""
    return wave if wave.numel() == samples else wave.repeat(-(-samples // wave.numel()))[:samples]


@lru_cache(maxsize=4)
def _order(count: int, seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).permutation(count)
