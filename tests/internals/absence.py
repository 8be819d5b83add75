"""Shared by the tests of internals: a module that trains in no time, and the sentence for an internal that is gone."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from kdse.internals.library import Library
from tests.toys import make_trainer


class Line(L.LightningModule):
    """Fits a line; logs the same value in every validation."""

    def __init__(self, width: int = 1) -> None:
        super().__init__()
        self.width = width
        self.line = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.line(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", 0.5)

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.line(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(batches: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.ones(batches, 1)), batch_size=1)


def fit(folder: Any, *callbacks: L.Callback, batches: int = 4, **settings: Any) -> L.Trainer:
    """A fit of one epoch with three batches of validation after it, unless ``settings`` say otherwise."""
    settings = {"max_epochs": 1, "max_steps": -1, "limit_val_batches": 1.0, **settings}
    trainer = make_trainer(folder, list(callbacks), **settings)
    trainer.fit(Line(), loader(batches), loader(3))
    return trainer


def sentence(library: Library, attribute: str) -> str:
    """What an error must say of an attribute that is gone, as a pattern for the whole message."""
    version = metadata.version(library.package)
    fixed = f"which kdse needs (tested with {library.package} {library.tested}); pip install '{library.requirement}'"
    start, name = re.escape(f"{library.package} {version} has no "), re.escape(attribute)
    return rf"^{start}\S*{name}, {re.escape(fixed)}$"
