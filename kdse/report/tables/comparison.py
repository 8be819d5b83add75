"""The table of `kdse compare`: for every run what it is, what it scores and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdse.metrics.table import NOISY, Row
from kdse.report.tables.scores import difference_table, score_cells, scores_caption
from kdse.report.tables.table import Cell, Column, Table, metric_column
from kdse.run.folder import seed_of, steps_of
from kdse.run.timing import step_cost

#: Metrics that comparison.csv has as improvement over the noisy input; the others as they are.
AS_IMPROVEMENT = ("si_sdr", "sdr")
#: What is known of a run besides its scores, in the order of comparison.csv.
COSTS = ("parameters", "seconds_per_step", "relative_cost", "training_seconds", "steps", "seed")


def describe_run(name: str, folder: Path, state: str) -> dict[str, Any]:
    """What a run folder says of a run, whether it is finished or not: state, steps, seed and cost. Unknown is None."""
    row = {"name": name, "state": state, **dict.fromkeys(COSTS), "seed": seed_of(folder)}
    if (cost := step_cost(folder)) is not None:
        row |= {"seconds_per_step": cost.seconds_per_step, "training_seconds": cost.training_seconds}
    if state == "finished":
        row["steps"] = steps_of(folder)
    return row


def noisy_row() -> dict[str, Any]:
    """The row of the unprocessed input."""
    return {"name": NOISY, "state": "", **dict.fromkeys(COSTS)}


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
    table = [line for line in report["table"] if line["snr_db"] == "all"] if report else []
    lines = {line["system"]: line for line in table if line["set"] == table[0]["set"]}
    for row in rows:
        row["parameters"] = report["systems"].get(row["name"], {}).get("parameters") if report else None
        for metric in metrics:
            row[column(metric)] = lines.get(row["name"], {}).get(column(metric))


def add_differences(
    rows: Sequence[dict[str, Any]], scored: Sequence[Row], metrics: Sequence[str], reference: str
) -> None:
    """Fills in, for every metric, the difference to the reference run on the same items with its interval and p value
    (``_difference``, ``_difference_low``, ``_difference_high``, ``_p``), and ``_mark``: "best" or "inside noise"."""
    first = _first_set(scored)
    cells = _score_cells(first, metrics)
    differences: dict[Any, dict[str, Cell]] = {}
    if reference in {row.system for row in first}:
        table = difference_table(first, metrics, reference)
        for line in table.rows:
            by_key = {column.key: cell for column, cell in zip(table.columns, line, strict=True)}
            differences[by_key["system"].value] = by_key
    for row in rows:
        for metric in metrics:
            own = differences.get(row["name"], {})
            difference = own.get(f"{metric}_difference", Cell(""))
            row[f"{metric}_mark"] = cells.get(row["name"], {}).get(metric, Cell("")).mark
            row[f"{metric}_difference"] = difference.value
            row[f"{metric}_difference_low"] = difference.low
            row[f"{metric}_difference_high"] = difference.high
            row[f"{metric}_p"] = own.get(f"{metric}_p", Cell("")).value


def comparison_tables(
    rows: Sequence[dict[str, Any]], scored: Sequence[Row], metrics: Sequence[str], reference: str
) -> list[Table]:
    """What people read: scores and costs of every run; then, if the reference and another were scored, differences."""
    first = _first_set(scored)
    cells = _score_cells(first, metrics)
    columns = (
        Column("name", "name"),
        Column("parameters", "parameters", "lower"),
        *map(metric_column, metrics),
        Column("relative_cost", f"step cost ({reference} = 1)", "lower"),
        Column("training_seconds", "training s", "lower"),
        Column("steps", "steps"),
        Column("seed", "seed"),
    )
    formats = {"relative_cost": ".2f", "training_seconds": ".0f", "steps": "d", "seed": "d"}
    body = []
    for row in rows:
        state = "" if row["state"] in ("", "finished") else f" ({row['state']})"
        scores = [cells.get(row["name"], {}).get(metric, Cell("")) for metric in metrics]
        costs = [Cell.of_number(row[key], form) for key, form in formats.items()]
        body.append((Cell.of(row["name"] + state), Cell.of_number(row["parameters"], ",d"), *scores, *costs))
    title = f"Runs over one base, {len({row.name for row in first})} items" if first else "Runs over one base"
    caption = scores_caption(cells.values(), metrics, intervals=False) if first else "No scores."
    tables = [Table("comparison", title, caption, columns, tuple(body), (0,) * len(body))]
    if {reference} < {row.system for row in first if row.system != NOISY}:
        tables.append(difference_table(first, metrics, reference))
    return tables


def column(metric: str) -> str:
    """The column of the CSV file that has a metric's mean."""
    return f"{metric}_improvement" if metric in AS_IMPROVEMENT else metric


def _first_set(scored: Sequence[Row]) -> list[Row]:
    """Rows of the first test set only (`kdse evaluate --range` makes a second one)."""
    return [row for row in scored if row.group == scored[0].group]


def _score_cells(scored: Sequence[Row], metrics: Sequence[str]) -> dict[Any, dict[str, Cell]]:
    """System to metric to cell, over all SNRs."""
    found = score_cells(scored, metrics, intervals=False)
    return {scores.line.system: scores.cells for scores in found if scores.line.snr_db == "all"}
