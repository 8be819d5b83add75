"""One row a point: what it is, how it ended, what it scored, what its student costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdse.machine.files import write_text
from kdse.run.folder import result
from kdse.run.log import validations
from kdse.sweeps.definition import Sweep
from kdse.sweeps.store import RUNS, Point

COSTS = "costs.json"


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
        about = {**vars(self), "point": self.number, "run": None if self.run is None else str(self.run)}
        del about["number"]
        return {"point": about.pop("point"), **about}


def rows(sweep: Sweep, points: Sequence[Point], out: Path) -> list[Row]:
    """The rows of all points, by number."""
    costs = _Costs(out / COSTS)
    found = []
    for point in points:
        run = None if point.identity is None else out / RUNS / point.identity
        ended = None if run is None else result(run)
        lines = [] if run is None else validations(run)
        last = lines[-1] if lines else {"step": None, "metrics": {}}
        cost = costs.of(run) if run is not None and point.state in ("finished", "stopped early") else {}
        found.append(
            Row(
                number=point.number + 1,
                values=point.values,
                state=point.state,
                run=run,
                step=last["step"] if ended is None else ended.get("step"),
                seconds=None if ended is None else ended.get("seconds"),
                metrics=dict(last["metrics"] if ended is None else ended.get("metrics", {})),
                parameters=cost.get("parameters"),
                macs_per_second=cost.get("macs_per_second"),
                error=point.error,
                attempts=point.attempts,
            )
        )
    costs.save()
    return found


class _Costs:
    """Parameters and MACs by run, counted once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known: dict[str, dict[str, int | None]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}
        self._new = False

    def of(self, run: Path) -> Mapping[str, int | None]:
        if run.name not in self.known and (run / "checkpoints" / "last.ckpt").is_file():
            self.known[run.name] = _cost(run / "checkpoints" / "last.ckpt")
            self._new = True
        return self.known.get(run.name, {})

    def save(self) -> None:
        if self._new:
            write_text(self.path, json.dumps(self.known, indent=1) + "\n")


def _cost(checkpoint: Path) -> dict[str, int | None]:
    from kdse.deploy.cost import count_macs
    from kdse.evaluation.costs import CLIP_SECONDS
    from kdse.models.budget import count_parameters
    from kdse.models.checkpoint import load_model

    try:
        model = load_model(checkpoint)
    except ValueError:  # (a class that kdse does not ship: nothing here may import it)
        return {}
    parameters = count_parameters(model)
    macs = count_macs(model, CLIP_SECONDS) if parameters else None
    return {"parameters": parameters or None, "macs_per_second": round(macs.per_second) if macs else None}
