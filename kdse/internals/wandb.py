"""What kdse uses of Weights & Biases beyond its public API. All of it was last checked with 0.31.0."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.internals.library import Library

if TYPE_CHECKING:
    import wandb

WANDB = Library("wandb", "0.31", "wandb>=0.31,<0.32")


def start_folder(run: wandb.Run) -> Path:
    """The folder of this start of a run: what `wandb sync` sends. ``run.dir``, the public one, is a folder in it."""
    return Path(run.dir).parent


def earlier_starts(run: wandb.Run) -> int:
    """How many starts of the same run left a folder beside this one's: ``[offline-]run-<time>-<id>[-<n>]``.

    Raises:
        MissingInternal: if this start's own folder is not named so.
    """
    folder = start_folder(run)
    starts = {*folder.parent.glob(f"*run-*-{run.id}"), *folder.parent.glob(f"*run-*-{run.id}-*")}
    if folder not in starts:
        raise WANDB.missing(f"run folder named run-TIME-ID (it is {folder.name})")
    return len(starts) - 1


def without_system_metrics(**settings: Any) -> wandb.Settings:
    """W&B settings of a run that measures no CPU and memory; the public environment variable is for all runs."""
    import wandb

    if "x_disable_stats" not in WANDB.get(wandb.Settings, "model_fields"):
        raise WANDB.missing("Settings.x_disable_stats")
    return wandb.Settings(**settings, x_disable_stats=True)
