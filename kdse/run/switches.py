"""The switches of a run: optimizer steps at which its schedule went from one phase to the next."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.run.folder import config_of, last_checkpoint
from kdse.run.log import training_log

if TYPE_CHECKING:
    from kdse.schedule import Phase


def switch_steps(run: str | Path) -> list[int]:
    """The optimizer steps at which a run's phases changed; empty if they did not, or nobody can tell.

    As the schedule stored them in the run's last checkpoint; without one, worked out from the config and the log. A
    switch that the run did not get to is none.
    """
    folder = Path(run)
    section = config_of(folder).get("schedule")
    if not isinstance(section, dict):
        return []
    starts, done = _stored_starts(folder) or _planned_starts(folder, section)
    return sorted({start for start in starts if 0 < start < done})


def _stored_starts(folder: Path) -> tuple[list[int], float] | None:
    from kdse.models.checkpoint import read_checkpoint

    try:
        content = read_checkpoint(last_checkpoint(folder))
        return [int(start) for start in content["callbacks"]["kdse.Schedule"]["starts"]], int(content["global_step"])
    except (ValueError, KeyError, TypeError):
        return None


def _planned_starts(folder: Path, section: dict[str, Any]) -> tuple[list[int], float]:
    from kdse.schedule import phase_starts

    config, log = config_of(folder), training_log(folder)
    trainer, data = config.get("trainer") or {}, (config.get("data") or {}).get("init_args") or {}
    try:
        epoch = math.ceil(data["steps_per_epoch"] / (trainer.get("accumulate_grad_batches") or 1))
    except (KeyError, TypeError):
        epoch = None
    limits = [trainer.get("max_steps") or -1, (trainer.get("max_epochs") or -1) * (epoch or math.inf)]
    total = min((limit for limit in limits if limit > 0), default=math.inf)
    try:
        starts = phase_starts(_phases(section), total, epoch)
    except (ValueError, TypeError, KeyError):
        return [], 0
    return starts, float(log["step"].max()) + 1 if len(log) else 0


def _phases(section: dict[str, Any]) -> list[Phase]:
    """The phases of a schedule's config; only kdse's own schedules can be read without running foreign code."""
    from kdse.schedule import Phase, Phases, TwoStep

    arguments = section.get("init_args") or {}
    name = str(section.get("class_path")).rpartition(".")[2]
    if name == "TwoStep":
        return TwoStep(**arguments).phases
    return Phases([Phase(**phase) for phase in arguments["phases"]]).phases
