"""Random streams derived from (seed, name), so that what is built first never changes what is built next."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on ``seed`` and every name, the same on every machine and Python version."""
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "little") >> 1


#: What `seed_batch` last set, and the seed of the run it is from.
_batch: tuple[int, int] | None = None


def run_seed() -> int:
    """The seed of this run: what ``seed_everything`` (or ``torch.manual_seed``) last set in this process."""
    current = torch.initial_seed()
    return _batch[1] if _batch is not None and _batch[0] == current else current


def seed_batch(*names: str | int) -> None:
    """Seeds torch's global streams for one training batch from the run's seed and names; `run_seed` stays what it was.

    What layers draw (dropout) is then a function of the batch, and a resumed run draws what an undisturbed one does.
    """
    global _batch
    seed = run_seed()
    value = derive_seed(seed, "batch", *names)
    torch.manual_seed(value)
    _batch = value, seed


@contextlib.contextmanager
def seeded(name: str, seed: int | None = None) -> Iterator[None]:
    """Runs the body on torch's global CPU stream seeded from (seed, name), then puts the old stream back.

    Used for network initialisation: the student starts from the same bytes whether or not a teacher or heads
    were built before it. ``seed=None`` means the seed of the run (`run_seed`).
    """
    value = derive_seed(run_seed() if seed is None else seed, name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(value)
        yield
