"""`RunLogger`: the Weights & Biases run of a run folder: one for its fit, its resumes and tests of its checkpoints."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from kdse.internals.lightning import leave_anonymous_out
from kdse.machine.files import write_text
from kdse.models.checkpoint import read_checkpoint
from kdse.report.wandb_log import after_earlier_starts, check_installed, plain_errors, staged

log = logging.getLogger(__name__)

FILE = "wandb_run.json"
PROJECT = "kdse"


class RunLogger(WandbLogger):
    """Lightning's W&B logger for a run folder, which remembers its W&B run in ``wandb_run.json``.

    A run that was not resumed gets a new W&B run. Only rank zero starts or writes anything. WANDB_RUN_ID counts before
    the remembered id, WANDB_NAME and WANDB_DIR before the folder, WANDB_PROJECT where no project is given; ``mode``
    counts before WANDB_MODE.

    Args:
        run_dir: of `kdse fit`.
        mode: "online" or "offline".
        project: W&B project; None means the remembered one, else WANDB_PROJECT, else "kdse".
        go_on: whether to go on with the remembered W&B run.
        at_step: the step of everything that Lightning logs, if it is not that of training: a checkpoint's.
        run_id: id of the W&B run where neither the environment nor the folder has one; None lets W&B draw one.

    Raises:
        ValueError: if the package wandb is missing; when logging starts, if W&B cannot be reached or refuses.
    """

    def __init__(
        self,
        run_dir: str | Path,
        mode: str,
        project: str | None = None,
        go_on: bool = False,
        at_step: int | None = None,
        run_id: str | None = None,
    ) -> None:
        check_installed(f"--wandb {mode}")
        self.run_dir, self.at_step, self.mode = Path(run_dir), at_step, mode
        self._lost = self._started = False
        known = remembered(self.run_dir) if go_on else {}
        if project is not None and known.get("project") != project:
            known = {}
        super().__init__(
            project=project or known.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or self.run_dir.resolve().name,
            id=os.environ.get("WANDB_RUN_ID") or known.get("id") or run_id,
            save_dir=os.environ.get("WANDB_DIR") or str(run_dir),
            mode=mode,
            log_model=False,
        )
        leave_anonymous_out(self)

    @property
    def experiment(self) -> Any:
        """The W&B run, started when first asked for (a dummy on other ranks)."""
        if not self._started:
            self._start()
        return super().experiment

    @rank_zero_only
    def _start(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with plain_errors(self.mode):
            run: Any = super().experiment
        self._started = True
        after_earlier_starts(run)
        about = {"id": run.id, "project": run.project, "url": "" if run.offline else run.url}
        write_text(self.run_dir / FILE, json.dumps(about, indent=2) + "\n")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with self._while_it_lives(), staged(self.experiment):
            super().log_metrics(metrics, step if self.at_step is None else self.at_step)

    @rank_zero_only
    def mark_preempting(self) -> None:
        """Tells W&B that the run will be stopped, so that a sweep's server queues it again."""
        with self._while_it_lives():
            self.experiment.mark_preempting()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Ends the W&B run, so that a later start in this process gets its own."""
        with self._while_it_lives():
            super().finalize(status)
            if self._started:
                self.experiment.finish(exit_code=0 if status == "success" else 1)

    @contextmanager
    def _while_it_lives(self) -> Iterator[None]:
        """Lets training go on without W&B's own process, which a signal to the whole job can end."""
        try:
            yield
        except ConnectionError:
            if not self._lost:
                self._lost = True
                log.warning("W&B's process has ended: nothing more is logged there (CSV and TensorBoard go on)")


def remembered(run_dir: str | Path) -> dict[str, str]:
    """Id, project and url of a run folder's W&B run; empty if it has none."""
    try:
        about = json.loads((Path(run_dir) / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def last_step(checkpoint: str | Path | None) -> int:
    """The last optimizer step in a checkpoint, counted from 0 as the log of its fit does; 0 without a checkpoint."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return 0
    return max(0, int(read_checkpoint(checkpoint).get("global_step", 0)) - 1)
