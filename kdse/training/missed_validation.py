"""`MissedValidation`: holds the validation between a checkpoint and the next step after a resume."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L

from kdse.internals.lightning import hold_validation, validation_due

log = logging.getLogger(__name__)


class MissedValidation(L.Callback):
    """Holds the validation that a run was stopped before or in.

    A checkpoint written after a step that a validation follows (the last of an epoch, say) is resumed after that
    validation: Lightning leaves it out, and the best checkpoint of a run would depend on when it was interrupted. This
    callback notes in every checkpoint whether a validation was due, and holds it before the first step of the resume.
    """

    def __init__(self) -> None:
        super().__init__()
        self._due = False

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._due = validation_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._due = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._due:
            self._hold(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._due:  # stopped after the very last step: Lightning found nothing left to train, and let go of the GPU
            trainer.strategy.model_to_device()
            self._hold(trainer)
            pl_module.cpu()

    def _hold(self, trainer: L.Trainer) -> None:
        log.info("resume: the validation after optimizer step %d was not finished; it comes first", trainer.global_step)
        hold_validation(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"due": self._due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._due = bool(state_dict.get("due", False))
