"""How many times real time `Mixtures` delivers on one core, from 16 kHz FLAC: rms SNR, no rooms, batches of 16 x 2 s.

    python benchmarks/mixer.py

Target: at least 2,000 times real time, from the data set and from its loader, once the recordings are decoded (the copy
is made before, in a temporary folder). Times are process time, so that a busy machine changes them little; the ratio to
reading one crop from its file alone changes least. Uses the recordings of KDSE_CORPUS, or else FLAC files that it makes
in a temporary folder.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from kdse.audio.files import read
from kdse.data import Mixtures

TARGET = 2000
SECONDS = 2.0
BATCH = 16
ITEMS = 3200
REPEATS = 3


def make_corpus(root: Path) -> None:
    """Files of 14 s: coloured noise, modulated like speech in speech/, at the level of the recordings (-40 dBFS)."""
    rng = np.random.default_rng(0)
    rate, time_s = 16000, np.arange(14 * 16000) / 16000
    for kind in ("speech", "noise"):
        folder = root / kind / "train"
        folder.mkdir(parents=True)
        for i in range(24):
            wave = np.cumsum(rng.standard_normal(time_s.size))
            wave = np.diff(wave, prepend=0.0) + 0.9 * np.diff(np.roll(wave, 1), prepend=0.0)
            if kind == "speech":
                wave *= np.clip(np.sin(2 * np.pi * 1.5 * time_s + i), 0, 1)
            soundfile.write(str(folder / f"{i}.flac"), 0.01 * wave / wave.std(), rate)


def times_real_time(deliver: Callable[[int], object], seconds: float, calls: int) -> float:
    """The best of a few repeats, in seconds of audio a second of process time; a call gives ``seconds`` of audio."""
    deliver(0)  # what is imported and cached on first use
    best = 0.0
    for repeat in range(REPEATS):
        start = time.process_time()
        for i in range(calls):
            deliver(repeat * calls + i)
        best = max(best, calls * seconds / (time.process_time() - start))
    return best


def measure(root: Path, cache: Path) -> tuple[float, float, float]:
    """(batches from the data set, batches from the loader, one crop read from its file) as times real time."""
    steps = ITEMS // BATCH
    module = Mixtures(
        root=str(root), segment_seconds=SECONDS, seed=0, batch_size=BATCH, steps_per_epoch=steps, cache_dir=str(cache)
    )
    samples = round(SECONDS * module.sample_rate_hz)
    loader = module.train_dataloader()
    items, batches = loader.dataset, iter(loader)
    files = module.mixture_set("train", module.snr_db, samples, 0, cycle_snr=False).speech
    rng = np.random.default_rng(0)

    def mixed(step: int) -> object:
        return items.__getitems__([(0, BATCH * step + i) for i in range(BATCH)])

    def loaded(_: int) -> object:
        nonlocal batches
        if (batch := next(batches, None)) is None:
            batches = iter(loader)
            batch = next(batches)
        return batch

    def read_crop(_: int) -> torch.Tensor:
        index = int(rng.integers(len(files)))
        spare = files.samples(index, module.sample_rate_hz) - samples
        start = int(rng.integers(spare)) if spare > 0 else 0
        return read(files.file(index), module.sample_rate_hz, start, start + samples)

    of_batch = BATCH * SECONDS
    return (
        times_real_time(mixed, of_batch, steps),
        times_real_time(loaded, of_batch, steps),
        times_real_time(read_crop, SECONDS, ITEMS // 8),
    )


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(os.environ.get("KDSE_CORPUS") or temporary)
        if not os.environ.get("KDSE_CORPUS"):
            make_corpus(root)
        mixed, batched, crop = measure(root, Path(temporary) / "cache")
    source = "KDSE_CORPUS" if os.environ.get("KDSE_CORPUS") else "generated FLAC"
    print(f"mixer, one core, {source}: {mixed:,.0f} times real time (target: at least {TARGET:,})")
    print(f"  batches of {BATCH} from the loader:   {batched:,.0f} times real time (the same target)")
    print(f"  one crop read from its file:     {crop:,.0f} times real time")
    print(f"  a mixture costs {crop / mixed:.2f} such reads (from files it takes two)")


if __name__ == "__main__":
    main()
