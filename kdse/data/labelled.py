"""The labelled share: which recordings count as having clean speech where it is to be scarce."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdse.errors import UserError
from kdse.seeding import derive_seed


def labelled_places(names: Sequence[str], share: float, seed: int) -> frozenset[int]:
    """Places in ``names`` of the recordings whose clean speech training may see.

    The first round(share x count) by rank of a hash of (seed, name), at least one unless the share is 0: the same files
    on every machine and process, and those of a share are among those of every larger one. Names are unique.
    """
    count = max(round(share * len(names)), 1 if share > 0 else 0)
    # one pass over the names: of a million in a manifest, each is decoded when it is asked for
    hashes = np.fromiter((derive_seed(seed, "labelled", name) for name in names), np.int64, len(names))
    ranked = np.argsort(hashes, kind="stable")
    if len(np.unique(hashes)) < len(hashes):
        ranked = np.asarray(sorted(ranked, key=lambda place: (hashes[place], names[place])))
    return frozenset(ranked[:count].tolist())


def check_share(share: float, name: str) -> None:
    """Raises a ValueError for a setting ``name`` of the data module that must be a share and is none."""
    if not 0 <= share <= 1:
        raise UserError(f"--data.{name} {share}: must lie between 0 and 1")
