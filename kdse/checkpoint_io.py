"""Writing checkpoints so that the last good one is never damaged. (Apart from reading, which needs no Lightning.)"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from kdse.checkpoint import LAST, PREVIOUS, read_checkpoint


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final name and moves it there, so that the last good one is never damaged.

    ``last.ckpt`` leaves the one it replaces as ``last.previous.ckpt``: a disk can damage a file that was written well.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST:
                _keep(path, path.with_name(PREVIOUS))
            os.replace(partial, path)
            _sync_folder(path.parent)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise ValueError(
                f"checkpoint {path}: could not be written ({str(cause).splitlines()[0]}); free space on that disk and "
                "resume: the previous checkpoint is intact"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return read_checkpoint(path)


def _keep(path: Path, previous: Path) -> None:
    """Gives a file a second name, in place of what had it; where there are no hard links, only that name."""
    if not path.exists():
        return
    link = previous.with_name(f".{previous.name}.{os.getpid()}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:
        os.replace(path, previous)  # (a kill before the new file has the name is met by `kdse.run_resume.last_good`)
        return
    os.replace(link, previous)


def _sync_folder(folder: Path) -> None:
    """Makes names in a folder survive a power cut, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
