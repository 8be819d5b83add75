"""`WritePredictions`: writes the enhanced files of `kdse predict`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from kdse.metrics.gathering import gather_lists

log = logging.getLogger(__name__)


class WritePredictions(BasePredictionWriter):
    """Writes every enhanced item as ``folder/<name>.wav``, 32-bit float, without the batch's padding."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__("batch")
        self.folder = Path(folder)
        self._written = 0

    def write_on_batch_end(
        self, trainer: L.Trainer, pl_module: Any, prediction: Tensor, batch_indices: Any, batch: Any, *_: Any
    ) -> None:
        from kdse.audio.files import write

        rate_hz = pl_module.model.sample_rate_hz
        for name, wave, samples in zip(batch["name"], prediction, batch["samples"].tolist(), strict=True):
            write(self.folder / f"{name}.wav", wave[:samples].float().cpu(), rate_hz, subtype="FLOAT")
            self._written += 1

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        log.info("%d files written to %s", sum(gather_lists([self._written])), self.folder)
