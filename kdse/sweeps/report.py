"""Report of a sweep: sweep.csv, sweep.json, sweep.md and its pictures, made from the run folders at any time."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdse.machine.files import write_bytes, write_text
from kdse.report.tables.table import Cell, Column, Table
from kdse.report.tables.writers import to_markdown
from kdse.sweeps.definition import Sweep
from kdse.sweeps.figures import pictures
from kdse.sweeps.progress import written
from kdse.sweeps.rows import Row, rows
from kdse.sweeps.store import Point
from kdse.sweeps.titles import metric_text, metric_title

IMPROVEMENT = "val/si_sdr_improvement"
CAPTION = (
    "Scores are those of each run's last validation, over its own validation items: their SNR follows data.snr_db, so "
    "that absolute scores of different SNR ranges are not comparable, and the improvement over the noisy input is what "
    "to look at. One seed each, unless seed_everything is swept."
)


def write_report(sweep: Sweep, points: Sequence[Point], out: Path) -> dict[str, Any]:
    """Writes tables and pictures to the sweep's folder; returns what sweep.json has, and the table as ``text``."""
    found = rows(sweep, points, out)
    drawn = pictures(sweep, found)
    for figure in drawn:
        write_bytes(out / f"{figure.key}.png", figure.png)
    content = {
        "file": str(sweep.path),
        "method": sweep.method,
        "metric": {"name": sweep.metric, "goal": "maximize" if sweep.maximize else "minimize"},
        "states": dict(Counter(row.state for row in found)),
        "planned": sweep.points(),
        "points": [row.plain() for row in found],
        "figures": [{"file": f"{figure.key}.png", "title": figure.title, "alt": figure.alt} for figure in drawn],
    }
    write_text(out / "sweep.json", json.dumps(content, indent=2, default=str) + "\n")
    write_text(out / "sweep.csv", to_csv(found))
    text = to_markdown(sweep_table(sweep, found))
    parts = [text, *(f"![{figure.title}]({figure.key}.png)\n\n{figure.alt}\n" for figure in drawn)]
    write_text(out / "sweep.md", "\n".join(parts))
    files = ", ".join(["sweep.md", "sweep.csv", "sweep.json", *(f"{figure.key}.png" for figure in drawn)])
    return {**content, "text": f"\n{text}\nwritten to {out}: {files}"}


def sweep_table(sweep: Sweep, found: Sequence[Row]) -> Table:
    """One row a point; the best finished one in bold, if all had the same data."""
    varying = [parameter.name for parameter in sweep.parameters if parameter.varies]
    metrics = list(dict.fromkeys(m for m in (sweep.metric, IMPROVEMENT) if any(m in row.metrics for row in found)))
    ended = [row.metrics[sweep.metric] for row in found if row.state == "finished" and sweep.metric in row.metrics]
    same_data = not any(name.startswith("data.") for name in varying)
    best = (max if sweep.maximize else min)(ended, default=None) if same_data else None
    columns = [Column(name, name) for name in ("point", *varying, "state")]
    columns += [Column(name, metric_title(name)) for name in metrics]
    columns += [Column("parameters", "parameters"), Column("macs_per_second", "MACs/s"), Column("step", "steps")]
    columns += [Column("seconds", "training s"), Column("run", "run")]
    body = []
    for row in found:
        why = f": {row.error}" if row.error else ""
        cells = [_number(row.number, "d"), *(_value(row.values.get(name)) for name in varying)]
        cells.append(Cell(f"{row.state}{why}", row.state))
        for name in metrics:
            value = row.metrics.get(name)
            is_best = name == sweep.metric and row.state == "finished" and value is not None and value == best
            cells.append(Cell("" if value is None else metric_text(name, value), value, best=is_best))
        cells += [_number(row.parameters, ",d"), _number(row.macs_per_second, ",d"), _number(row.step, "d")]
        cells += [_number(row.seconds, ".0f"), _value(None if row.run is None else row.run.name)]
        body.append(tuple(cells))
    states = ", ".join(f"{count} {state}" for state, count in Counter(row.state for row in found).items())
    planned = sweep.points()
    begun = f" ({len(found)} of {planned} drawn)" if planned is not None and planned != len(found) else ""
    return Table("sweep", f"{sweep.path.stem}: {states}{begun}", CAPTION, tuple(columns), tuple(body))


def to_csv(found: Sequence[Row]) -> str:
    """Every row with all of its values and metrics; lists and mappings as JSON."""
    names = list(dict.fromkeys(name for row in found for name in row.values))
    metrics = list(dict.fromkeys(name for row in found for name in row.metrics))
    about = ["state", "step", "seconds", "parameters", "macs_per_second", "run", "attempts", "error"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["point", *names, *about, *metrics])
    for row in found:
        values = [_plain(row.values.get(name)) for name in names]
        told = [getattr(row, name) for name in about]
        writer.writerow([row.number, *values, *told, *(row.metrics.get(metric) for metric in metrics)])
    return text.getvalue()


def _value(value: Any) -> Cell:
    return Cell("" if value is None else written(value), _plain(value))


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _number(value: float | None, form: str) -> Cell:
    return Cell("" if value is None else format(value, form), value)
