"""The processes of a distributed run: how many there are, their copies of a model, their batches as one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from torch import Tensor, nn

from kdse.errors import UserError


def started(environment: Mapping[str, str] = os.environ) -> tuple[int, str]:
    """How many processes a launcher started together, and its name; (1, "") without one."""
    if "TORCHELASTIC_RUN_ID" in environment:
        return int(environment.get("WORLD_SIZE", "1")), "torchrun"
    return int(environment.get("SLURM_STEP_NUM_TASKS", "1")), "srun"


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the first process of a run, as far as its environment says before the trainer is there."""
    if "RANK" in environment or "SLURM_PROCID" in environment:
        return int(environment.get("RANK", environment.get("SLURM_PROCID", "0"))) == 0
    nodes = (environment.get(name, "0") for name in ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK"))
    return all(int(number) == 0 for number in nodes)


def check_processes(world_size: int, environment: Mapping[str, str] = os.environ) -> None:
    """Refuses a trainer that would be alone in each of several processes: all would train the same run, in one folder.

    Lightning checks other differences itself, but on a CPU its ``--trainer.devices=auto`` is one device.
    """
    count, launcher = started(environment)
    if world_size == 1 and count > 1:
        raise UserError(
            f"{launcher} started {count} processes and each would train the whole run by itself; give "
            f"--trainer.devices (processes a machine), --trainer.num_nodes and --trainer.strategy=ddp, or start one"
        )


def launched_by(plugins: Sequence[object]) -> list[ClusterEnvironment]:
    """Lightning's SLURM environment where Lightning would choose it, without its requeue; else nothing.

    Its own handler for the signal before the time limit saves in the middle of a step; see `kdse.training.stopping`.
    An environment among the trainer's plugins is left alone.
    """
    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if chosen or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def check_strategy(strategy: object) -> None:
    """Refuses Lightning's strategies that copy the running process: a command line is started again instead."""
    name = str(strategy)
    plain = re.sub("_(spawn|fork|notebook)(?=_|$)", "", name)
    if plain != name:
        raise UserError(
            f"--trainer.strategy={name}: copies a running process, which a notebook needs and a command line does not; "
            f"use {plain}"
        )


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


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
    """Refuses to train on from different checkpoints: a disk that machines share can show some an older file."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if world_size() == 1:
            return
        steps: list[int] = [0] * world_size()
        dist.all_gather_object(steps, trainer.global_step)
        if len(set(steps)) > 1:
            seen = ", ".join(map(str, steps))
            raise UserError(
                f"--resume: the processes read checkpoints of different optimizer steps ({seen}): the disk they share "
                "shows some an older file; start again"
            )


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
        counts = [torch.zeros((), dtype=torch.long, device=x.device) for _ in range(world_size())]
        dist.all_gather(counts, torch.tensor(x.shape[0], device=x.device))
        sizes = [int(count) for count in counts]
        if len(set(sizes)) > 1:
            raise UserError(f"gather: the processes hold batches of {sizes} items; use drop_last")
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in sizes]
        dist.all_gather(parts, x.contiguous())
        ctx.items = x.shape[0]  # type: ignore[attr-defined]  # (a context takes any)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        items: int = ctx.items  # type: ignore[attr-defined]  # (a context takes any)
        start = dist.get_rank() * items
        return grads[0][start : start + items] * world_size()
