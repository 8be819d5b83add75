"""How many times real time `Mixtures` delivers on one core, from 16 kHz FLAC: rms SNR, no rooms, 2 s items.

    python benchmarks/mixer.py

Target: at least 500 times real time. Times are process time, so that a busy machine changes them little; the ratio to
reading one crop alone (a mixture reads two) changes least. Uses the recordings of KDSE_CORPUS, or else FLAC files that
it makes in a temporary folder.
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

TARGET = 500
SECONDS = 2.0
ITEMS = 400
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


def times_real_time(deliver: Callable[[int], object]) -> float:
    """The best of a few repeats, in seconds of audio a second of process time."""
    best = 0.0
    for repeat in range(REPEATS):
        start = time.process_time()
        for i in range(ITEMS):
            deliver(repeat * ITEMS + i)
        best = max(best, ITEMS * SECONDS / (time.process_time() - start))
    return best


def measure(root: Path) -> tuple[float, float, float]:
    """(mixtures from the data set, batches of 16 from the loader, one crop read alone) as times real time."""
    module = Mixtures(root=str(root), segment_seconds=SECONDS, seed=0, batch_size=16, steps_per_epoch=ITEMS // 16)
    samples = round(SECONDS * module.sample_rate_hz)
    items = module.mixture_set("train", module.snr_db, samples, 0, cycle_snr=False)
    rng = np.random.default_rng(0)

    def read_crop(_: int) -> torch.Tensor:
        index = int(rng.integers(len(items.speech)))
        spare = items.speech.samples(index, module.sample_rate_hz) - samples
        start = int(rng.integers(spare)) if spare > 0 else 0
        return read(items.speech.file(index), module.sample_rate_hz, start, start + samples)

    loader = iter(module.train_dataloader())
    next(loader)  # what is imported and cached on first use
    start, count = time.process_time(), 0
    for batch in loader:
        count += len(batch["name"])
    batched = count * SECONDS / (time.process_time() - start)
    read_crop(0)
    return times_real_time(lambda i: items[(0, i)]), batched, times_real_time(read_crop)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(os.environ.get("KDSE_CORPUS") or temporary)
        if not os.environ.get("KDSE_CORPUS"):
            make_corpus(root)
        mixed, batched, crop = measure(root)
    source = "KDSE_CORPUS" if os.environ.get("KDSE_CORPUS") else "generated FLAC"
    print(f"mixer, one core, {source}: {mixed:,.0f} times real time (target: at least {TARGET})")
    print(f"  batches of 16 from the loader:   {batched:,.0f} times real time")
    print(f"  one crop read alone:             {crop:,.0f} times real time")
    print(f"  a mixture costs {crop / mixed:.2f} crop reads (it reads two)")


if __name__ == "__main__":
    main()
