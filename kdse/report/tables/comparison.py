"""The table of `kdse compare`: for every run what it is, what it scores and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdse.metrics.table import NOISY, Row
from kdse.report.tables.number_format import metric_column, word
from kdse.report.tables.scores import difference_table, score_cells, scores_caption
from kdse.report.tables.table import Cell, Column, Table
from kdse.run.timing import step_cost

#: Metrics that comparison.csv has as improvement over the noisy input; the others as they are.
AS_IMPROVEMENT = ("si_sdr", "sdr")


def describe_run(name: str, folder: Path, state: str) -> dict[str, Any]:
    """What a run folder says of a run, whether it is finished or not: state, steps, seed and cost. Unknown is None."""
    cost = step_cost(folder)
    return {
        "name": name,
        "state": state,
        "parameters": None,
        "seconds_per_step": None if cost is None else cost.seconds_per_step,
        "relative_cost": None,
        "training_seconds": None if cost is None else cost.training_seconds,
        "steps": _steps(folder) if state == "finished" else None,
        "seed": _seed(folder),
    }


def noisy_row() -> dict[str, Any]:
    """The row of the unprocessed input."""
    unknown = ("parameters", "seconds_per_step", "relative_cost", "training_seconds", "steps", "seed")
    return {"name": NOISY, "state": "", **dict.fromkeys(unknown)}


def add_costs(rows: Sequence[dict[str, Any]], reference: str) -> None:
    """Fills in what a step costs relative to the reference run's, where both are known."""
    base = next((row["seconds_per_step"] for row in rows if row["name"] == reference), None)
    for row in rows:
        if base and row["seconds_per_step"] is not None:
            row["relative_cost"] = row["seconds_per_step"] / base


def add_scores(rows: Sequence[dict[str, Any]], report: dict[str, Any] | None, metrics: Sequence[str]) -> None:
    """Fills in parameters and mean scores from what `kdse evaluate` wrote; None where it has none.

    Means are over all items of the first test set (`kdse evaluate --range` makes a second one).
    """
    table = [] if report is None else [line for line in report["table"] if line["snr_db"] == "all"]
    first = table[0]["set"] if table else ""
    lines = {line["system"]: line for line in table if line["set"] == first}
    for row in rows:
        about = {} if report is None else report["systems"].get(row["name"], {})
        row["parameters"] = about.get("parameters")
        line = lines.get(row["name"], {})
        for metric in metrics:
            row[column(metric)] = line.get(column(metric))


def add_differences(
    rows: Sequence[dict[str, Any]], scored: Sequence[Row], metrics: Sequence[str], reference: str
) -> None:
    """Fills in, for every metric, the difference to the reference run on the same items with its interval and p value
    (``_difference``, ``_difference_low``, ``_difference_high``, ``_p``), and ``_mark``: "best" or "inside noise"."""
    first = _first_set(scored)
    cells = _score_cells(first, metrics)
    known = reference in {row.system for row in first}
    table = difference_table(first, metrics, reference) if known else None
    keys = [] if table is None else [column.key for column in table.columns]
    lines = {} if table is None else {line[keys.index("system")].value: line for line in table.rows}
    for row in rows:
        for metric in metrics:
            cell = cells.get(row["name"], {}).get(metric)
            row[f"{metric}_mark"] = (
                "" if cell is None else "best" if cell.best else "inside noise" if cell.noise else ""
            )
            line = lines.get(row["name"])
            difference = None if line is None else line[keys.index(f"{metric}_difference")]
            row[f"{metric}_difference"] = None if difference is None else difference.value
            row[f"{metric}_difference_low"] = None if difference is None else difference.low
            row[f"{metric}_difference_high"] = None if difference is None else difference.high
            row[f"{metric}_p"] = None if line is None else line[keys.index(f"{metric}_p")].value


def comparison_tables(
    rows: Sequence[dict[str, Any]], scored: Sequence[Row], metrics: Sequence[str], reference: str
) -> list[Table]:
    """What people read: scores and costs of every run; then, if the reference and another were scored, differences."""
    first = _first_set(scored)
    cells = _score_cells(first, metrics)
    columns = [
        Column("name", "name"),
        Column("parameters", "parameters", "lower"),
        *(metric_column(metric) for metric in metrics),
        Column("relative_cost", f"step cost ({reference} = 1)", "lower"),
        Column("training_seconds", "training s", "lower"),
        Column("steps", "steps"),
        Column("seed", "seed"),
    ]
    body = []
    for row in rows:
        state = "" if row["state"] in ("", "finished") else f" ({row['state']})"
        line = [word(row["name"] + state), _number(row, "parameters", ",d")]
        line += [cells.get(row["name"], {}).get(metric, Cell("")) for metric in metrics]
        line += [_number(row, "relative_cost", ".2f"), _number(row, "training_seconds", ".0f")]
        body.append((*line, _number(row, "steps", "d"), _number(row, "seed", "d")))
    title = f"Runs over one base, {len({row.name for row in first})} items" if first else "Runs over one base"
    caption = scores_caption(cells.values(), metrics, intervals=False) if first else "No scores."
    tables = [Table("comparison", title, caption, tuple(columns), tuple(body), (0,) * len(body))]
    if {reference} < {row.system for row in first if row.system != NOISY}:
        tables.append(difference_table(first, metrics, reference))
    return tables


def column(metric: str) -> str:
    """The column of the CSV file that has a metric's mean."""
    return f"{metric}_improvement" if metric in AS_IMPROVEMENT else metric


def _first_set(scored: Sequence[Row]) -> list[Row]:
    """Rows of the first test set only (`kdse evaluate --range` makes a second one)."""
    return [row for row in scored if row.group == scored[0].group]


def _score_cells(scored: Sequence[Row], metrics: Sequence[str]) -> dict[str, dict[str, Cell]]:
    """System to metric to cell, over all SNRs."""
    found = score_cells(scored, metrics, intervals=False)
    return {scores.line.system: scores.cells for scores in found if scores.line.snr_db == "all"}


def _number(row: dict[str, Any], key: str, form: str) -> Cell:
    return Cell("" if row[key] is None else format(row[key], form), row[key])


def _steps(folder: Path) -> int | None:
    from kdse.models.checkpoint import read_checkpoint

    steps = read_checkpoint(folder / "checkpoints" / "last.ckpt").get("global_step")
    return steps if isinstance(steps, int) else None


def _seed(folder: Path) -> int | None:
    import yaml

    try:
        seed = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")).get("seed_everything")
    except (OSError, yaml.YAMLError, AttributeError):
        return None
    return seed if type(seed) is int else None  # (true means a random one)
