"""`SwitchCheckpoint`: the student as the first phase left it, for looking at what distillation alone did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from kdse.schedule import Schedule

FILE = "switch.ckpt"


class SwitchCheckpoint(L.Callback):
    """Writes ``switch.ckpt`` at the optimizer step at which a schedule's first phase ends.

    An ordinary checkpoint: it loads as a student and can be resumed from. With several switches it is the first one's,
    our choice: what a student learned from the teacher before anything else is what is asked for. A run that is
    resumed before the switch writes it when it gets there, one resumed after it keeps the file. A run that starts at
    step 0 removes the file of an older run in its folder.

    It writes before `LastCheckpoint` and its kind do (Lightning calls those after all other callbacks), so a run that
    is killed between the two is resumed before the switch and loses nothing.

    Args:
        folder: of the checkpoints.
        schedule: whose phases these are; its steps are known once fit has started.
    """

    def __init__(self, folder: str | Path, schedule: Schedule) -> None:
        super().__init__()
        self.file = Path(folder) / FILE
        self.schedule = schedule
        self._saved_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_step = trainer.global_step  # (nothing to write again for what was resumed from)
        if trainer.global_step == 0 and trainer.is_global_zero:
            self.file.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self._first_switch() and step != self._saved_step:
            self._saved_step = step  # several batches may make a step
            trainer.save_checkpoint(self.file, weights_only=False)

    def _first_switch(self) -> int | None:
        return next((start for start in self.schedule.starts or [] if start > 0), None)
