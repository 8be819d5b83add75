"""What a run logged by optimizer step, over all of its starts: the training log and the validations."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.run.folder import VALIDATIONS

if TYPE_CHECKING:
    import pandas as pd

#: Our choice: beyond all metrics and steps, within what a figure can show.
LARGEST = 1e12


def training_log(run: str | Path) -> pd.DataFrame:
    """The CSV log of a run folder, one row a logged step, counted from 0; of a repeated step the later start's.

    A run too short to have logged anything gives an empty table.
    """
    import pandas as pd

    starts = sorted(Path(run).glob("csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    starts = [
        path for path in [Path(run) / "csv" / "metrics.csv", *starts] if path.is_file() and path.stat().st_size > 1
    ]
    if not starts:
        return pd.DataFrame({"step": []})
    found = []
    for path in starts:
        with contextlib.suppress(ValueError, OSError):  # (a damaged one: pandas' own errors are ValueErrors)
            table = pd.read_csv(path).apply(pd.to_numeric, errors="coerce")
            found += [table.dropna(subset=["step"])] if "step" in table else []
    return pd.concat(found).groupby("step", as_index=False).last() if found else pd.DataFrame({"step": []})


def validations(run: str | Path, damaged: list[str] | None = None) -> list[dict[str, Any]]:
    """The validations of a run: ``step`` (optimizer steps before it) and finite ``metrics``, in the order of steps.

    Of a repeated step the last line counts, and a line cut short does not; other lines that are none are left out too,
    and named in ``damaged``. A run without ``validations.jsonl`` (of an
    early kdse) has them from its CSV log.
    """
    by_step: dict[int, dict[str, Any]] = {}
    try:
        lines = (Path(run) / VALIDATIONS).read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return _logged_validations(run)
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
            step, metrics = int(content["step"]), dict(content["metrics"])
            by_step[step] = {**content, "step": step, "metrics": metrics}
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            if number < len(lines) and damaged is not None:
                damaged.append(f"{Path(run) / VALIDATIONS}: line {number} is damaged and left out")
    return [by_step[step] for step in sorted(by_step)]


def _logged_validations(run: str | Path) -> list[dict[str, Any]]:
    found = []
    for row in training_log(run).to_dict("records"):
        values = {str(k): float(v) for k, v in row.items() if str(k).startswith("val/") and math.isfinite(v)}
        if values:
            found.append({"step": int(row["step"]) + 1, "metrics": values})
    return found


def history(run: str | Path, metric: str) -> dict[int, float]:
    """The values of a validation metric by optimizer step, ascending; those beyond `LARGEST` mean nothing."""
    found = {line["step"]: line["metrics"].get(metric) for line in validations(run)}
    return {s: float(v) for s, v in found.items() if isinstance(v, (int, float)) and max(abs(v), s) < LARGEST}
