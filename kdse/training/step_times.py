"""`StepTimes`: measures what an optimizer step costs while a run trains. (`kdse.run.timing` reads it.)"""

from __future__ import annotations

import contextlib
import csv
import math
import statistics
import time
from pathlib import Path
from typing import Any, TypeAlias

import lightning as L
import torch

from kdse.run.timing import COLUMNS, FILE

#: A step that took longer than this many medians of its block counts as that long: the machine was busy. Our choice.
LONGEST_STEP = 5.0

#: A moment: an event of the GPU's own clock, which runs behind the process, or seconds of the process' clock.
Mark: TypeAlias = "torch.cuda.Event | float"


class StepTimes(L.Callback):
    """Writes a line to a run's ``timing.csv`` for every block of steps.

    A step lasts from the end of the one before it to its own end; where validation, a checkpoint or a new epoch came
    between, from its own start. On CUDA the GPU's clock is read once a block, so that nothing waits for it.

    Args:
        folder: of the run.
        block_steps: optimizer steps a line.
        warm_up: steps at each start that are not timed: compilation, caches, a filling queue. Our choice.
    """

    def __init__(self, folder: str | Path, block_steps: int = 50, warm_up: int = 5) -> None:
        super().__init__()
        self.file = Path(folder) / FILE
        self.block_steps, self.warm_up = block_steps, warm_up
        self._mark: Mark | None = None
        self._spans: list[tuple[Mark, Mark]] = []
        self._block = 0
        self._steps = 0  # of this start
        self._step = 0  # of the run
        self._anew = False  # the file is of another run in this folder
        self._start_id = self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark, self._spans, self._steps, self._step = None, [], 0, trainer.global_step
        self._block, self._anew = self._step // self.block_steps, self._step == 0
        self._start_id, self._started = time.time(), time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._mark is None:
            self._mark = _now(pl_module.device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step or self._mark is None:
            return  # a batch of several that make a step
        self._step = trainer.global_step
        block = (self._step - 1) // self.block_steps
        if block != self._block:
            self._write(trainer)
            self._block = block
        self._steps += 1
        end = _now(pl_module.device)
        if self._steps > self.warm_up:
            self._spans.append((self._mark, end))
        self._mark = end

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._mark = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._steps:
            with contextlib.suppress(RuntimeError, OSError):  # a broken GPU or full disk has already been reported
                self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        spans, self._spans = self._spans, []
        if not trainer.is_global_zero:
            return
        seconds = [_seconds(a, b) for a, b in spans]
        median = statistics.median(seconds) if seconds else math.nan
        mean = statistics.fmean(min(s, LONGEST_STEP * median) for s in seconds) if seconds else math.nan
        elapsed = time.perf_counter() - self._started
        new, self._anew = self._anew or not self.file.exists(), False
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "w" if new else "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            about = f"{self._start_id:.3f}", self._block, len(seconds)
            writer.writerow([*about, f"{mean:.9f}", f"{median:.9f}", f"{elapsed:.3f}"])


def _now(device: torch.device) -> Mark:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _seconds(start: Mark, end: Mark) -> float:
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float) and isinstance(end, float)
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000
