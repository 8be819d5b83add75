"""Gradient accumulation: every optimizer step takes the mean over the batches that it has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L


def window_factor(trainer: L.Trainer, batch_idx: int) -> float:
    """What a batch's loss is multiplied by so that its optimizer step takes the mean over its batches.

    Lightning divides every loss by ``accumulate_grad_batches``, and steps at the end of an epoch with what there is:
    such a step would pull less than the others, by the share of batches that it lacks. 1 for whole windows, and where
    the length of an epoch is unknown.

    Args:
        trainer: the Lightning trainer.
        batch_idx: of the batch in its epoch.
    """
    window, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
    if window == 1 or not math.isfinite(batches) or trainer.strategy.handles_gradient_accumulation:
        return 1.0
    left = batches - (batch_idx - batch_idx % window)
    return float(window / min(window, left))
