"""Checkpoint files of a run: last, previous, best and switch, written so that the last good one is never damaged."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from kdse.errors import UserError, first_line
from kdse.internals.lightning import last_saved_step
from kdse.machine.files import beside
from kdse.models.checkpoint import LAST, PREVIOUS, read_checkpoint
from kdse.run.folder import SWITCH
from kdse.schedule import Schedule


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and moves it there, so that the last good one is never damaged.

    ``last.ckpt`` leaves the one it replaces as ``last.previous.ckpt``: a disk can damage a file that was written well.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = beside(path)
        try:
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                _keep(path, path.with_name(PREVIOUS))
            os.replace(partial, path)
            with contextlib.suppress(OSError):  # (where a folder can be opened: names survive a power cut)
                descriptor = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise UserError(
                f"checkpoint {path}: could not be written ({first_line(cause)}); free space on that disk and "
                "resume: the previous checkpoint is intact"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(path)


def _keep(path: Path, previous: Path) -> None:
    """Gives a file a second name, in place of what had it; where there are no hard links, only that name."""
    link = beside(previous)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, previous)  # (a kill before the new file has the name is met by `kdse.run.resume.last_good`)
        return
    os.replace(link, previous)


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``: every so many optimizer steps or after each epoch, and when training ends."""

    def __init__(self, folder: Path, every_n_steps: int | None) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            save_top_k=1,
            enable_version_counter=False,
            every_n_train_steps=every_n_steps,
            every_n_epochs=None if every_n_steps else 1,
            save_on_train_epoch_end=None if every_n_steps else True,
        )
        self._folder = folder

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if trainer.global_step > last_saved_step(self):
            trainer.save_checkpoint(self._folder / LAST, weights_only=False)


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt`` by validation SI-SDR; a run that goes on in a folder that was moved knows it again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor="val/si_sdr",
            mode="max",
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=False,  # at the end of a validation, also of one that a resume makes up for
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        kept = Path(str(self.dirpath)) / Path(str(state_dict.get("best_model_path") or "none")).name
        if kept.is_file():
            here = {"dirpath": str(self.dirpath), "best_model_path": str(kept), "kth_best_model_path": str(kept)}
            scores = state_dict.get("best_k_models") or {}
            state_dict = {**state_dict, **here, "best_k_models": {str(kept): score for score in scores.values()}}
        super().load_state_dict(state_dict)


class SwitchCheckpoint(L.Callback):
    """Writes ``switch.ckpt``, an ordinary checkpoint, at the optimizer step at which a schedule's first phase ends.

    With several switches it is the first one's, our choice: what a student learned from the teacher alone. A run
    resumed after the switch keeps the file. It is written before ``last.ckpt`` (Lightning calls checkpoint callbacks
    after all others), so a run that is killed between the two is resumed before the switch and loses nothing.

    Args:
        folder: of the checkpoints.
        schedule: whose phases these are; its steps are known once fit has started.
    """

    def __init__(self, folder: str | Path, schedule: Schedule) -> None:
        super().__init__()
        self.file = Path(folder) / SWITCH
        self.schedule = schedule
        self._saved_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_step = trainer.global_step  # (nothing to write again for what was resumed from)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        switch = next((start for start in self.schedule.starts or [] if start > 0), None)
        if step == switch and step != self._saved_step:
            self._saved_step = step  # several batches may make a step
            trainer.save_checkpoint(self.file, weights_only=False)
