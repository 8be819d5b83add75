"""The copies of a model that the processes of a run hold: equal parameters, but buffers of their own in between."""

from __future__ import annotations

import lightning as L
import torch.distributed as dist
from torch import nn

from kdse.process_group import world_size


def take_buffers_of_rank_zero(module: nn.Module) -> None:
    """Gives every process rank zero's saved buffers, which are the ones in checkpoints.

    DDP averages gradients, so parameters stay equal; running statistics (batch norm) follow each process's own items
    until some later forward pass. Without a process group nothing happens.
    """
    if world_size() == 1:
        return
    saved = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        if name in saved:
            dist.broadcast(buffer, src=0)


class SameStart(L.Callback):
    """Refuses to train on from different checkpoints: a disk that several machines share can show them an older file.

    Raises:
        ValueError: in every process, when training starts.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if world_size() == 1:
            return
        steps: list[int] = [0] * world_size()
        dist.all_gather_object(steps, trainer.global_step)
        if len(set(steps)) > 1:
            seen = ", ".join(map(str, steps))
            raise ValueError(
                f"--resume: the processes read checkpoints of different optimizer steps ({seen}): the disk they share "
                "shows some an older file; start again"
            )
