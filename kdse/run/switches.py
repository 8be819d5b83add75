"""The switches of a run: optimizer steps at which its schedule went from one phase to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdse.run.folder import last_checkpoint, result


def switches_before(starts: Sequence[int], done: int) -> list[int]:
    """The switches that a run of ``done`` steps got to, given where its phases start."""
    return sorted({start for start in starts if 0 < start < done})


def switch_steps(run: str | Path) -> list[int]:
    """The optimizer steps at which a run's phases changed, as it stored them in its result or last checkpoint.

    Empty if they did not change, or if it stored neither. A switch that the run did not get to is none.
    """
    from kdse.models.checkpoint import read_checkpoint

    stored = (result(run) or {}).get("switches")
    try:
        if stored is not None:
            return [int(step) for step in stored]
        content = read_checkpoint(last_checkpoint(Path(run)))
        starts = [int(start) for start in content["callbacks"]["kdse.Schedule"]["starts"]]
        return switches_before(starts, int(content["global_step"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return []
