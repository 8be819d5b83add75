"""The table of `kdse compare`: for every run what it is, what it scores and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdse.metrics.table import NOISY, SHOWN
from kdse.report.timing import step_cost

#: Metrics shown as improvement over the noisy input; the others as they are.
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


def column(metric: str) -> str:
    """The column that shows a metric."""
    return f"{metric}_improvement" if metric in AS_IMPROVEMENT else metric


def to_markdown(rows: Sequence[dict[str, Any]], metrics: Sequence[str], reference: str) -> str:
    """The table for people, its columns aligned."""
    header = ["name", "parameters", *(_title(m) for m in metrics), f"step cost ({reference} = 1)", "training s"]
    table = [[*header, "steps", "seed"]]
    for row in rows:
        state = "" if row["state"] in ("", "finished") else f" ({row['state']})"
        cells = [row["name"] + state, _number(row["parameters"], ",d")]
        cells += [_score(row, metric) for metric in metrics]
        cells += [_number(row["relative_cost"], ".2f"), _number(row["training_seconds"], ".0f")]
        table.append([*cells, _number(row["steps"], "d"), _number(row["seed"], "d")])
    widths = [max(len(cells[i]) for cells in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(_aligned(cells, widths)) + " |" for cells in table]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]) + "\n"


def _aligned(cells: list[str], widths: list[int]) -> list[str]:
    return [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]


def _title(metric: str) -> str:
    title = SHOWN.get(metric, (metric, 1, 3))[0]
    return f"{title} improvement" if metric in AS_IMPROVEMENT else title


def _score(row: dict[str, Any], metric: str) -> str:
    _, factor, decimals = SHOWN.get(metric, (metric, 1, 3))
    value = row.get(column(metric))
    if value is None or (row["name"] == NOISY and metric in AS_IMPROVEMENT):
        return ""
    return f"{value * factor:{'+' if metric in AS_IMPROVEMENT else ''}.{decimals}f}"


def _number(value: float | None, form: str) -> str:
    if value is None:
        return ""
    return format(value, form)


def _steps(folder: Path) -> int | None:
    from kdse.checkpoint import read_checkpoint

    steps = read_checkpoint(folder / "checkpoints" / "last.ckpt").get("global_step")
    return steps if isinstance(steps, int) else None


def _seed(folder: Path) -> int | None:
    import yaml

    try:
        seed = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")).get("seed_everything")
    except (OSError, yaml.YAMLError, AttributeError):
        return None
    return seed if type(seed) is int else None  # (true means a random one)
