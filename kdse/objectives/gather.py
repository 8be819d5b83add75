"""Activations of all DDP processes as one batch, differentiably."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from kdse.process_group import world_size


def gather_batch(x: Tensor) -> Tensor:
    """Concatenates ``x`` ``[B, ...]`` of all processes to ``[W B, ...]``; the identity without torch.distributed.

    The gradient is scaled so that DDP's average over processes gives the gradient of the global batch: every process
    computes the same global loss, each passes W times its own slice's gradient back, and DDP divides by W.
    Every process must hold equally many items.
    """
    if world_size() == 1:
        return x
    return _Gather.apply(x)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        sizes = [torch.zeros((), dtype=torch.long, device=x.device) for _ in range(world_size())]
        dist.all_gather(sizes, torch.tensor(x.shape[0], device=x.device))
        if len({int(s) for s in sizes}) > 1:
            raise ValueError(f"gather: the processes hold batches of {[int(s) for s in sizes]} items; use drop_last")
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in sizes]
        dist.all_gather(parts, x.contiguous())
        ctx.items = x.shape[0]  # type: ignore[attr-defined]  # (a context takes any)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        items: int = ctx.items  # type: ignore[attr-defined]  # (a context takes any)
        start = dist.get_rank() * items
        return grads[0][start : start + items] * world_size()
