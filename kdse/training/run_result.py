"""`RunResult`: writes the validations and the result of a run to its folder, for programs."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import lightning as L

from kdse.errors import UserError
from kdse.machine.files import write_text
from kdse.run.folder import RESULT, RUN
from kdse.run.log import VALIDATIONS, validations
from kdse.run.switches import switches_before
from kdse.run.timing import step_cost
from kdse.schedule import Schedule

MONITORED = "val/si_sdr"


class RunResult(L.Callback):
    """Appends to ``validations.jsonl`` after every validation, and writes ``result.json`` when `fit` has ended.

    A line is ``{"step": N, "metrics": {"val/si_sdr": ...}}``. A resumed run may come to a step again: the last line of
    a step counts. The result has "state" ("finished"), "identity", "step", "seconds" of training, "metrics" of the last
    validation, "best" by SI-SDR with its step, "switches" (optimizer steps at which the schedule's phase changed) and
    "recordings", a digest of what was trained on. (`kdse.training.first_write` removes those of an earlier start.)

    Args:
        folder: the run folder.
        identity: of the run, see `kdse.run.identity`.
        schedule: of the run; its steps are known once fit has started.
    """

    def __init__(self, folder: str | Path, identity: str, schedule: Schedule | None = None) -> None:
        super().__init__()
        self.folder, self.identity, self.schedule = Path(folder), identity, schedule
        self._before: dict[str, Any] = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[RUN] = self.identity

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._before = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        # (Lightning keeps what was logged in earlier validations: a teacher is scored once)
        new = {k: v for k, v in trainer.callback_metrics.items() if v is not self._before.get(k)}
        values = {k: float(v) for k, v in new.items() if k.startswith("val/")}
        line = {"step": trainer.global_step, "metrics": {k: v for k, v in values.items() if math.isfinite(v)}}
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(self.folder / VALIDATIONS, "ab+") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    file.write(b"\n")  # a kill cut the last line short
                file.write(json.dumps(line).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.folder / VALIDATIONS}: could not be written ({error.strerror})") from None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        lines, cost = validations(self.folder), step_cost(self.folder)
        scored = [line for line in lines if MONITORED in line["metrics"]]
        best = max(scored, key=lambda line: line["metrics"][MONITORED], default=None)
        starts = None if self.schedule is None else self.schedule.starts
        result = {
            "state": "finished",
            "identity": self.identity,
            "step": trainer.global_step,
            "seconds": None if cost is None else round(cost.training_seconds, 1),
            "metrics": lines[-1]["metrics"] if lines else {},
            "best": best and {"step": best["step"], MONITORED: best["metrics"][MONITORED]},
            "switches": switches_before(starts or [], trainer.global_step),
            "recordings": recordings(getattr(trainer, "datamodule", None)),
        }
        write_text(self.folder / RESULT, json.dumps(result, indent=2) + "\n")


def recordings(data: Any) -> str | None:
    """Digest of a data module's recordings; None for one that has none to give."""
    known = getattr(data, "fingerprint", None)
    return known() if callable(known) else None
