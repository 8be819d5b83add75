"""Whether training waits for data: the demo's student on the embedded corpus, without and with data processes.

    python benchmarks/loader.py [--workers 0] [--steps 80]

Target: (next to) no waiting. Prints the share of the time between the end of one step and the start of the next, and
the longest single wait after the first ten steps. The student alone is the fastest thing the demo trains, so the
hardest to feed.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from typing import Any

import lightning as L
import torch

from kdse.data import SyntheticCorpus
from kdse.enhancer import Enhancer
from kdse.models import Cruse


class Waits(L.Callback):
    """Seconds of every step, and of every gap before one."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self.steps: list[float] = []
        self.mark: float | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        now = time.perf_counter()
        if self.mark is not None:
            self.gaps.append(now - self.mark)
        self.start = now

    def on_train_batch_end(self, *_: Any) -> None:
        self.mark = time.perf_counter()
        self.steps.append(self.mark - self.start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    waits = Waits()
    data = SyntheticCorpus(
        snr_db=[-5, 15], segment_seconds=1.5, batch_size=12, steps_per_epoch=1000, num_workers=arguments.workers, seed=0
    )
    module = Enhancer(
        Cruse(channels=[4, 8, 16, 24]), optimizer=lambda p: torch.optim.Adam(p, lr=1e-3), metrics=["si_sdr"]
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu", max_steps=arguments.steps, limit_val_batches=0, logger=False, callbacks=[waits],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module, data)
    gaps, steps = waits.gaps[10:], waits.steps[11:]
    share = sum(gaps) / (sum(gaps) + sum(steps))
    print(f"step {1e3 * sum(steps) / len(steps):.0f} ms; between steps {100 * share:.1f} % of the time, at most")
    print(f"{1e3 * max(gaps):.0f} ms at once; {arguments.workers} data processes, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
