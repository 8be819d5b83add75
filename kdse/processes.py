"""How many processes a run was started as, and how many its trainer takes part in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment


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

    Raises:
        ValueError: naming the flags.
    """
    count, launcher = started(environment)
    if world_size == 1 and count > 1:
        raise ValueError(
            f"{launcher} started {count} processes and each would train the whole run by itself; give "
            f"--trainer.devices (processes a machine), --trainer.num_nodes and --trainer.strategy=ddp, or start one"
        )


def launched_by(plugins: Sequence[object]) -> list[ClusterEnvironment]:
    """Lightning's SLURM environment where Lightning would choose it, without its requeue; else nothing.

    Its own handler for the signal before the time limit saves in the middle of a step; see `kdse.run_stopping`.

    Args:
        plugins: of the trainer; an environment among them is left alone.
    """
    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if chosen or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False)]


def check_strategy(strategy: object) -> None:
    """Refuses Lightning's strategies that copy the running process: a command line is started again instead.

    Raises:
        ValueError: naming the ones that work.
    """
    name = str(strategy)
    plain = re.sub("_(spawn|fork|notebook)(?=_|$)", "", name)
    if plain != name:
        raise ValueError(
            f"--trainer.strategy={name}: copies a running process, which a notebook needs and a command line does not; "
            f"use {plain}"
        )
