"""`Harm`: a callback of the tests that does to its own process what a cluster does to runs, at a moment of choice.

The moment and the harm come from the environment, so that a harmed run and an undisturbed one have the same config:
``KDSE_TEST_HARM="sigterm after step 5"`` (also ``sigusr1``, ``sigint``, ``kill``; ``sigterm-all`` goes to the data and
scoring processes as well), ``... after batch 3``, ``... during validation 2``, or ``kill while writing checkpoint 4``
(half of the file is on disk). ``KDSE_TEST_HARM_RANK`` chooses one process of several.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

SIGNALS = {"sigterm": signal.SIGTERM, "sigusr1": signal.SIGUSR1, "sigint": signal.SIGINT, "kill": signal.SIGKILL}
VARIABLE, RANK = "KDSE_TEST_HARM", "KDSE_TEST_HARM_RANK"


class Harm(L.Callback):
    def __init__(self) -> None:
        super().__init__()
        words = os.environ.get(VARIABLE, "").split()
        self.what = words[0] if words else ""
        self.when, self.count = " ".join(words[1:-1]), int(words[-1]) if words else 0
        self.seen = self.batches = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.here = trainer.global_rank == int(os.environ.get(RANK, trainer.global_rank))
        if self.when == "while writing checkpoint" and self.here:
            _kill_half_way(self.count)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.batches += 1
        self._strike("after batch", self.batches)
        self._strike("after step", trainer.global_step)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.seen += 1
        self._strike("during validation", self.seen)

    def _strike(self, when: str, count: int) -> None:
        if self.here and (when, count) == (self.when, self.count):
            name, _, everybody = self.what.partition("-")
            for process in _children(os.getpid()) if everybody else []:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, SIGNALS[name])
            os.kill(os.getpid(), SIGNALS[name])


class Slow(L.Callback):
    """Takes its time over every training and validation batch."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(self.seconds)

    def on_validation_batch_start(self, *_: Any) -> None:
        time.sleep(self.seconds)


class Dropout(L.Callback):
    """A student that draws random numbers in every training step."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        first = next(module for module in pl_module.model.modules() if isinstance(module, torch.nn.Conv2d))
        first.register_forward_hook(lambda m, _, out: torch.nn.functional.dropout(out, 0.1, training=m.training))


def _children(process: int) -> list[int]:
    """Every process below one, the farthest first."""
    try:
        listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return []
    return [below for child in map(int, listed) for below in [*_children(child), child]]


def _kill_half_way(count: int) -> None:
    """Ends the process when half of the count-th checkpoint is on disk under the name it is written under."""
    save, written = torch.save, 0

    def save_half(content: Any, file: Any, *rest: Any, **settings: Any) -> None:
        nonlocal written
        written += 1
        save(content, file, *rest, **settings)
        if written == count:
            file.flush()
            os.truncate(file.name, Path(file.name).stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half
