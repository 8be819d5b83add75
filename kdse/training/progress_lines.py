"""`TrainingLines`: progress of fit, validate, test and predict without a terminal, as a line every few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from kdse.machine.progress import Pace, say


class TrainingLines(ProgressBar):
    """Lines on stderr: the optimizer step, of how many, steps a second since the last line, losses and scores.

    One when training starts, one when it ends, between them one every `SECONDS_BETWEEN_LINES`. Long
    validations, and tests, count their batches at the same pace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shown = True
        self._pace = Pace()
        self._step, self._at = 0, 0.0

    def disable(self) -> None:
        self._shown = False

    def enable(self) -> None:
        self._shown = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pace = Pace()
        self._step, self._at = trainer.global_step, time.monotonic()
        self._say(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._pace.due():
            self._say(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._say(trainer, pl_module)

    def _say(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._shown:
            return
        now, step, total = time.monotonic(), trainer.global_step, trainer.estimated_stepping_batches
        parts = [f"step {step}" if math.isinf(total) else f"step {step}/{total:.0f}"]
        if step > self._step:
            parts.append(f"{(step - self._step) / max(now - self._at, 1e-9):.2f} steps/s")
        self._step, self._at = step, now
        shown = {name: value for name, value in self.get_metrics(trainer, pl_module).items() if name != "v_num"}
        parts += [f"{name} {value:.4g}" for name, value in shown.items() if isinstance(value, (int, float))]
        say(", ".join(parts))

    def on_validation_batch_end(self, trainer: L.Trainer, *hook: Any) -> None:
        if not trainer.sanity_checking:
            self._count("validation", trainer.num_val_batches, *hook)

    def on_test_batch_end(self, trainer: L.Trainer, *hook: Any) -> None:
        self._count("test", trainer.num_test_batches, *hook)

    def on_predict_batch_end(self, trainer: L.Trainer, *hook: Any) -> None:
        self._count("predict", trainer.num_predict_batches, *hook)

    def _count(self, what: str, totals: Sequence[int | float], *hook: Any) -> None:
        """Says how far it is; ``hook`` is what Lightning calls with: model, outputs, batch, its index, and loader."""
        index, loader = (*hook[3:], 0)[:2]
        if self._shown and self._pace.due():
            say(f"{what}: {index + 1}/{totals[loader]} batches")
