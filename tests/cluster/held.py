"""A run that waits in the middle of a training step, so that a test can stop it there and not by luck."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning as L

from kdse.machine.files import write_text
from kdse.training.stopping import StopOnSignal
from tests.toys import ToyData

#: Environment: "STEP:FOLDER". It is not in the config: a run that waited and one that did not are the same run.
HOLD = "KDSE_TEST_HOLD"
PATIENCE_SECONDS = 200.0


class HeldData(ToyData):
    """The toys' data. In that step, a process writes its id to ``FOLDER/reached-NAME`` and waits until a signal has
    come to it or there is ``FOLDER/release``; not where that file is there already. NAME is the task of an array, or
    the rank.
    """

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        step, _, folder = os.environ.get(HOLD, "").partition(":")
        trainer = self.trainer
        assert trainer is not None
        if not step or not trainer.training or trainer.global_step != int(step):
            return batch
        reached = Path(folder) / f"reached-{os.environ.get('SLURM_ARRAY_TASK_ID', trainer.global_rank)}"
        if reached.exists():
            return batch
        write_text(reached, str(os.getpid()))
        end = time.monotonic() + PATIENCE_SECONDS
        while not signalled(trainer) and not (Path(folder) / "release").exists():
            if time.monotonic() > end:
                raise RuntimeError(f"nobody released {folder}")
            time.sleep(0.05)
        return batch


def signalled(trainer: L.Trainer) -> bool:
    return any(isinstance(c, StopOnSignal) and c.stop.received is not None for c in trainer.callbacks)
