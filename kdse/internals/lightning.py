"""What kdse uses of Lightning beyond its public API. All of it was last checked with 2.6.6."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from kdse.internals.library import Library

LIGHTNING = Library("lightning", "2.6", "lightning>=2.6,<2.7")

#: Beginnings of warnings that do not hold for kdse's data. Were they reworded they would be shown, and do no harm.
CUSTOM_SAMPLER = "You are using a custom batch sampler `SharedBatches` for prediction"
MID_EPOCH = "You're resuming from a checkpoint that ended before the epoch ended"
#: Parts of warnings that tell a user of kdse nothing: what they advise is settled, or was not written by them.
NOT_FOR_USERS = (
    "does not have many workers",
    "LightningCLI's args parameter",
    "when logging on epoch level in distributed setting",  # (every process logs the same)
    "`LeafSpec` is deprecated",  # (PyTorch's, of Lightning)
    "isinstance(treespec, LeafSpec)",
)
#: Parts of messages that are advertisements, or said by kdse in its own words.
NOT_LOGGED = ("Tip:", "Detected KeyboardInterrupt")


# --- counters of the training loop ---


def logged_step(trainer: L.Trainer) -> int:
    """The step at which Lightning logs validation scores: the optimizer step before the validation, counted from 0.

    ``_batches_that_stepped`` of the epoch loop, which the trainer shows nowhere; ``trainer.global_step`` is one more.
    """
    return int(LIGHTNING.get(_epoch_loop(trainer), "_batches_that_stepped"))


def set_logged_step(trainer: L.Trainer, step: int) -> None:
    """Corrects `logged_step`: Lightning counts one too many when it resumes at the end of an epoch."""
    LIGHTNING.put(_epoch_loop(trainer), "_batches_that_stepped", step)


def batches_started(trainer: Any) -> int:
    """Training batches begun in the whole run: ``batch_progress`` of the epoch loop.

    ``trainer.global_step`` counts optimizer steps, and a callback's ``batch_idx`` begins again every epoch.
    """
    return _batches(trainer, "ready")


def batches_processed(trainer: Any) -> int:
    """Training batches that went through the step, in the whole run (see `batches_started`)."""
    return _batches(trainer, "processed")


def _batches(trainer: Any, counter: str) -> int:
    progress = LIGHTNING.get(_epoch_loop(trainer), "batch_progress")
    return int(LIGHTNING.get(LIGHTNING.get(progress, "total"), counter))


def _epoch_loop(trainer: Any) -> Any:
    return LIGHTNING.get(LIGHTNING.get(trainer, "fit_loop"), "epoch_loop")


# --- validations ---


def validation_due(trainer: L.Trainer) -> bool:
    """Whether a validation follows the batch that has just ended: ``_should_check_val_fx`` of the epoch loop."""
    fetcher = LIGHTNING.get(trainer.fit_loop, "_data_fetcher")
    due = LIGHTNING.get(_epoch_loop(trainer), "_should_check_val_fx")
    return fetcher is not None and bool(due(fetcher))


def hold_validation(trainer: L.Trainer) -> None:
    """Runs the validation of a fit between two of its batches: ``val_loop`` of the epoch loop, from its beginning.

    ``trainer.validate`` would replace the state of the fit.
    """
    loop = LIGHTNING.get(_epoch_loop(trainer), "val_loop")
    LIGHTNING.put(loop, "restarting", False)
    run = LIGHTNING.get(loop, "run")
    trainer.validating = True
    run()
    trainer.training = True


def stop_early_after_validations(callback: EarlyStopping) -> None:
    """Lets early stopping look after validations, unless its settings say when: a resume may skip an epoch's end.

    Sets ``_check_on_train_epoch_end`` of a callback that comes made from the config.
    """
    if LIGHTNING.get(callback, "_check_on_train_epoch_end") is None:
        LIGHTNING.put(callback, "_check_on_train_epoch_end", False)


# --- data ---


def shares_samplers(trainer: L.Trainer) -> bool:
    """Whether Lightning shares a loader's items among processes: ``--trainer.use_distributed_sampler``."""
    connector = LIGHTNING.get(trainer, "_accelerator_connector")
    return bool(LIGHTNING.get(connector, "use_distributed_sampler"))


def own_batch_sampler(loader: Any) -> Any:
    """The batch sampler that a loader was made with; Lightning wraps it for predict."""
    keeper = LIGHTNING.load("lightning.pytorch.overrides.distributed", "_IndexBatchSamplerWrapper")
    sampler = loader.batch_sampler
    return LIGHTNING.get(sampler, "_batch_sampler") if isinstance(sampler, keeper) else sampler


def quiet() -> None:
    """Hides `NOT_FOR_USERS` and `NOT_LOGGED` in this process."""
    for text in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=f".*{re.escape(text)}")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in NOT_LOGGED)


def hide_warning(beginning: str) -> None:
    """Hides a warning of Lightning's: `CUSTOM_SAMPLER` or `MID_EPOCH`. Lightning's have no category of their own."""
    warnings.filterwarnings("ignore", message=beginning)


# --- checkpoints, loggers, processes ---


def last_saved_step(callback: ModelCheckpoint) -> int:
    """``trainer.global_step`` at which a checkpoint callback last wrote; 0 if it has not."""
    return int(LIGHTNING.get(callback, "_last_global_step_saved"))


def leave_anonymous_out(logger: WandbLogger) -> None:
    """Takes ``anonymous`` out of what the logger gives to `wandb.init`: W&B (0.31) warns of it in every run."""
    LIGHTNING.get(logger, "_wandb_init").pop("anonymous", None)


def process_rank() -> int:
    """Rank of this process before there is a trainer, as Lightning's `rank_zero_only` knows it (0 if alone)."""
    return int(LIGHTNING.get(rank_zero_only, "rank"))


# --- the command line ---


class FlagsWinCLI(LightningCLI):
    """A LightningCLI that does not read ``hyper_parameters`` of ``--ckpt_path`` into the config: flags win."""

    def __init__(self, **settings: Any) -> None:
        LIGHTNING.get(LightningCLI, "_parse_ckpt_path")  # (if it had another name, this class would change nothing)
        super().__init__(**settings)

    def _parse_ckpt_path(self) -> None:
        pass
