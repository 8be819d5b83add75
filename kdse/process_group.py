"""The processes that train or evaluate together, as torch.distributed knows them."""

from __future__ import annotations

import torch.distributed as dist


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
