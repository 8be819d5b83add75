"""Writing checkpoints so that the last good one is never damaged. (Apart from reading, which needs no Lightning.)"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from kdse.checkpoint import read_checkpoint


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and moves it there, so that the last good one is never damaged."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise ValueError(
                f"checkpoint {path}: could not be written ({str(cause).splitlines()[0]}); free space on that disk and "
                "resume: the previous checkpoint is intact"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(path)
