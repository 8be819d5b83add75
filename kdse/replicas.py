"""The copies of a model that the processes of a run hold: equal parameters, but buffers of their own in between."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn


def take_buffers_of_rank_zero(module: nn.Module) -> None:
    """Gives every process rank zero's saved buffers, which are the ones in checkpoints.

    DDP averages gradients, so parameters stay equal; running statistics (batch norm) follow each process's own items
    until some later forward pass. Without a process group nothing happens.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    saved = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        if name in saved:
            dist.broadcast(buffer, src=0)
