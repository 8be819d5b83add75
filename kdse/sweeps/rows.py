"""Rows of a sweep's table: for every point its values, how it ended, its scores and its student's cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdse.errors import UserError
from kdse.machine.files import write_text
from kdse.run.folder import last_checkpoint, result
from kdse.run.log import validations
from kdse.sweeps.definition import Sweep
from kdse.sweeps.store import RUNS, Point


@dataclass(frozen=True)
class Row:
    """A point with what its run folder says.

    number: from 1, as people count. values: by parameter name. state, error, attempts: see `kdse.sweeps.store.Point`.
    run: its run folder, None if it never had one. step: of its last validation. seconds: of training, once it has
    ended. metrics: of its last validation, by name in the log. parameters, macs_per_second: of the student, None if
    unknown.
    """

    number: int
    values: dict[str, Any]
    state: str
    run: Path | None
    step: int | None
    seconds: float | None
    metrics: dict[str, float]
    parameters: int | None
    macs_per_second: int | None
    error: str | None
    attempts: int

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        about = asdict(self)
        return {"point": about.pop("number"), **about, "run": None if self.run is None else str(self.run)}


def rows(sweep: Sweep, points: Sequence[Point], out: Path) -> list[Row]:
    """The rows of all points, by number. What students cost is counted once and kept in ``costs.json``."""
    file = out / "costs.json"
    try:
        costs: dict[str, dict[str, int | None]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        costs = {}
    counted = len(costs)
    found = []
    for point in points:
        run = None if point.identity is None else out / RUNS / point.identity
        lines = [] if run is None else validations(run)
        last = (None if run is None else result(run)) or (lines[-1] if lines else {})
        cost: dict[str, int | None] = {}
        if run is not None and point.state in ("finished", "stopped early"):
            if run.name not in costs and last_checkpoint(run).is_file():
                costs[run.name] = _cost(last_checkpoint(run))
            cost = costs.get(run.name, {})
        found.append(
            Row(
                number=point.number + 1,
                values=point.values,
                state=point.state,
                run=run,
                step=last.get("step"),
                seconds=last.get("seconds"),
                metrics=dict(last.get("metrics", {})),
                parameters=cost.get("parameters"),
                macs_per_second=cost.get("macs_per_second"),
                error=point.error,
                attempts=point.attempts,
            )
        )
    if len(costs) > counted:
        write_text(file, json.dumps(costs, indent=1) + "\n")
    return found


def _cost(checkpoint: Path) -> dict[str, int | None]:
    from kdse.evaluation.costs import size_and_macs
    from kdse.models.checkpoint import load_model

    try:
        model = load_model(checkpoint)
    except UserError:  # (a class that kdse does not ship: nothing here may import it)
        return {}
    return size_and_macs(model)
