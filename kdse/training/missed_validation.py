"""`MissedValidation`: holds the validation that a run was stopped before or in, and that of its last step."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L

from kdse.internals.lightning import hold_validation, logged_step, set_logged_step, validation_due

log = logging.getLogger(__name__)


class MissedValidation(L.Callback):
    """Holds the validations that Lightning leaves out.

    A checkpoint written after a step that a validation follows (the last of an epoch, say) is resumed after that
    validation: Lightning leaves it out, and the best checkpoint of a run would depend on when it was interrupted. This
    callback notes in every checkpoint whether a validation was due, and holds it before the first step of the resume.

    A run that ends between two validations, or before its first, is validated at its last step, so that its result
    says what it became.
    """

    def __init__(self) -> None:
        super().__init__()
        self._due = False
        self._validated = 0  # optimizer steps before the last validation

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._due = validation_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._due, self._validated = False, trainer.global_step

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._due:
            log.info("resume: the validation after step %d was not finished; it comes first", trainer.global_step)
            hold_validation(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._hold_last(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._is_missing(trainer):  # stopped after the very last step: nothing was left to train
            trainer.strategy.model_to_device()  # (Lightning has let go of the GPU)
            self._hold_last(trainer)
            pl_module.cpu()

    def _is_missing(self, trainer: L.Trainer) -> bool:
        return trainer.enable_validation and (self._due or self._validated != trainer.global_step)

    def _hold_last(self, trainer: L.Trainer) -> None:
        if self._is_missing(trainer):
            counted = logged_step(trainer)
            set_logged_step(trainer, trainer.global_step - 1)  # where its losses are logged, as of any validation
            hold_validation(trainer)
            set_logged_step(trainer, counted)

    def state_dict(self) -> dict[str, Any]:
        return {"due": self._due, "validated": self._validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._due = bool(state_dict.get("due", False))
        self._validated = int(state_dict.get("validated", 0))
