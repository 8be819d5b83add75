"""`FirstWrite`: a run folder stays as it is until the first batch has been trained; loggers that wait for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_only

from kdse.errors import UserError
from kdse.machine.files import write_text
from kdse.models.checkpoint import LAST, PREVIOUS
from kdse.run.folder import CHECKPOINTS, CONFIG, RESULT, SWITCH, clear
from kdse.run.log import VALIDATIONS
from kdse.run.timing import FILE as TIMING
from kdse.training.wandb_logger import FILE as WANDB_RUN
from kdse.training.wandb_logger import RunLogger

#: What a kill left half written.
HALF_WRITTEN = (".*.partial", f"{CHECKPOINTS}/.*.partial")
#: What a start at step 0 removes of an earlier one.
OF_EARLIER_STEPS = (VALIDATIONS, TIMING, f"{CHECKPOINTS}/{SWITCH}")
#: The rest of what `kdse fit` writes, which only --overwrite=true removes. (W&B's own folder has runs to be synced.)
REPLACED = (
    *(f"{CHECKPOINTS}/{name}" for name in (LAST, PREVIOUS, "best.ckpt")),
    *(f"csv/version_*/{name}" for name in ("metrics.csv", "hparams.yaml")),
    *(f"tensorboard/{name}" for name in ("events.out.tfevents.*", "hparams.yaml")),
)


class FirstWrite(L.Callback):
    """Begins a run folder when the first batch has been trained, or a validation comes before it.

    By then corpus, teacher, objectives, schedule, optimizer and batch have done their work once: a start that fails
    leaves the folder, and a run in it, byte for byte. It must be the first callback, because others write as well.

    Args:
        folder: of the run.
        settings: the resolved config, written as ``config.yaml``.
        claim: locks the folder, or raises a UserError if another start was faster.
        overwrite: remove what an earlier run left in the folder.
    """

    def __init__(
        self, folder: str | Path, settings: dict[str, Any], claim: Callable[[], None], overwrite: bool = False
    ) -> None:
        super().__init__()
        self.folder, self.settings, self.claim, self.overwrite = Path(folder), settings, claim, overwrite
        self.begun = False
        self.waiting: list[Callable[[], None]] = []
        self._trainer: L.Trainer | None = None  # once training has started

    def begin(self, trainer: L.Trainer) -> None:
        """Lets writing begin; nothing happens from the second time on."""
        if self.begun:
            return
        self.begun = True
        if trainer.is_global_zero:
            self._write(trainer)
        for call in self.waiting:
            call()
        self.waiting.clear()

    def _write(self, trainer: L.Trainer) -> None:
        self.claim()
        wandb = [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]
        for logger in wandb:
            logger.experiment  # noqa: B018 (starts W&B, which can refuse: before anything is removed)
        clear(self.folder, (*HALF_WRITTEN, RESULT))
        if self.overwrite or trainer.ckpt_path is None:
            clear(self.folder, OF_EARLIER_STEPS)
        if self.overwrite:
            clear(self.folder, (*REPLACED, *(() if wandb else (WANDB_RUN,))))
        write_text(self.folder / CONFIG, yaml.safe_dump(self.settings, sort_keys=False))
        for logger in wandb:
            logger.log_hyperparams(self.settings)

    def experiment_wanted(self) -> bool:
        """Whether a logger's own writer can be had: once training has started, somebody writes with it."""
        if not self.begun and self._trainer is not None:
            self.begin(self._trainer)
        return self.begun

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trainer = trainer

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.begin(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.begin(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.overwrite and trainer.global_step == 0:
            raise UserError("--overwrite: nothing was trained, so the run stays as it is; give steps to train")
        self.begin(trainer)  # (nothing was left to train)


class Waiting:
    """A logger that keeps what it is given until a run folder may be written to, and makes no file before."""

    first_write: FirstWrite

    @property
    def experiment(self) -> Any:
        wanted = self.first_write.experiment_wanted()
        return super().experiment if wanted else DummyExperiment()  # type: ignore[misc]  # (a logger's)

    def log_metrics(self, *arguments: Any, **settings: Any) -> None:
        self._later(super().log_metrics, *arguments, **settings)  # type: ignore[misc]

    def log_hyperparams(self, *arguments: Any, **settings: Any) -> None:
        self._later(super().log_hyperparams, *arguments, **settings)  # type: ignore[misc]

    def save(self) -> None:
        self._later(super().save)  # type: ignore[misc]

    @rank_zero_only
    def _later(self, call: Callable[..., None], *arguments: Any, **settings: Any) -> None:
        if self.first_write.begun:
            call(*arguments, **settings)
        else:
            self.first_write.waiting.append(partial(call, *arguments, **settings))


class WaitingCsv(Waiting, CSVLogger):
    """CSV log of a fit."""


class WaitingTensorBoard(Waiting, TensorBoardLogger):
    """TensorBoard log of a fit."""


class WaitingWandb(Waiting, RunLogger):
    """W&B run of a fit."""
