"""A callback for runs of the command line over several processes: what each of them started from and wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from kdse.models.checkpoint import fingerprint


class Watch(Callback):
    """Writes ``folder/<run folder's name>.<stage>.<rank>.json``: before DDP has wrapped (and equalised) anything.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        found = {
            "student": fingerprint(pl_module.model),
            "seed": torch.initial_seed(),
            "world": trainer.world_size,
            "sequence": torch.rand(2, generator=torch.Generator().manual_seed(torch.initial_seed())).tolist(),
        }
        name = f"{Path(trainer.default_root_dir).name}.{trainer.state.fn.value}.{trainer.global_rank}.json"
        (self.folder / name).write_text(json.dumps(found))
