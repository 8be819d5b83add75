"""The table of what systems cost to run and to train, and the list of what could not be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kdse.report.tables.number_format import word
from kdse.report.tables.table import Cell, Column, Table


class Cost(NamedTuple):
    """A column of costs: key in a system's dictionary, title, text of a value; lower is better unless it is no cost."""

    key: str
    title: str
    text: Callable[[Any], str]
    better: str = "lower"


def _scaled(value: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _factor(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2g}"


COSTS = (
    Cost("parameters", "parameters", "{:,d}".format),
    Cost("macs_per_second", "MACs / s of audio", _scaled),
    Cost("real_time_factor", "real-time factor", _factor),
    Cost("streaming_real_time_factor", "real-time factor, streaming", _factor),
    Cost("latency_ms", "latency ms", "{:.3g}".format),
    Cost("model_bytes", "model kB", lambda value: f"{value / 1000:,.0f}"),
    Cost("training_seconds", "training s", "{:,.0f}".format),
    Cost("seconds_per_step", "s / step", "{:.3g}".format),
    Cost("steps", "steps", "{:,d}".format, better=""),
    Cost("seed", "seed", "{:d}".format, better=""),
)
MEASURED = ("real_time_factor", "streaming_real_time_factor")


def cost_table(costs: Mapping[str, Mapping[str, Any]], title: str = "Cost") -> Table:
    """What every system costs. Columns that no system has a value for are left out.

    Args:
        costs: system to cost by key: ``parameters``, ``macs_per_second`` (of audio), ``real_time_factor`` and
            ``streaming_real_time_factor`` (seconds of computation per second of audio, on ``threads`` CPU threads),
            ``latency_ms`` (None: unknown, or the whole clip), ``model_bytes``, ``training_seconds``,
            ``seconds_per_step`` (of an optimizer), ``steps``, ``seed``. A missing key is an empty cell, None is "n/a".
        title: of the table.
    """
    shown = [cost for cost in COSTS if any(about.get(cost.key) is not None for about in costs.values())]
    timed = [about for about in costs.values() if any(about.get(key) is not None for key in MEASURED)]
    threads = {about.get("threads") for about in timed}
    columns = [Column("system", "system")]
    for cost in shown:
        stated = cost.key in MEASURED and len(threads) == 1
        columns.append(Column(cost.key, cost.title + (_threads(*threads) if stated else ""), cost.better))
    rows = []
    for system, about in costs.items():
        row = [word(system)]
        for cost in shown:
            suffix = _threads(about.get("threads")) if cost.key in MEASURED and len(threads) > 1 else ""
            row.append(_cell(about, cost, suffix))
        rows.append(tuple(row))
    parts = ["MACs: multiply-accumulates."] if any(c.key == "macs_per_second" for c in shown) else []
    if timed:
        parts.append("Real-time factor: computing time per time of audio, on a CPU; small differences are noise.")
    if any(cost.key == "latency_ms" for cost in shown):
        parts.append("Latency n/a: unknown, or the model needs the whole clip.")
    if any(cost.key == "seconds_per_step" for cost in shown):
        parts.append("s / step: mean time of an optimizer step, waiting for data included, validation not.")
    if any(cost.key in ("seconds_per_step", "training_seconds") for cost in shown):
        parts.append("Training times compare only if the runs had the same machine to themselves.")
    parts.append("Costs are not ranked: what is measured once has no interval.")
    return Table("cost", title, " ".join(parts), tuple(columns), tuple(rows), (0,) * len(rows))


def failure_table(failures: Iterable[Sequence[str]], title: str = "Items that could not be scored") -> Table:
    """Every failed score.

    Args:
        failures: (set, system, item, metric, reason), as in `kdse.metrics.table.Summary`.
        title: of the table.
    """
    found = [tuple(failure) for failure in failures]
    names = ("set", "system", "name", "metric", "reason")
    first = 0 if any(failure[0] for failure in found) else 1
    columns = tuple(Column(name, "item" if name == "name" else name) for name in names[first:])
    rows = tuple(tuple(word(part) for part in failure[first:]) for failure in found)
    caption = "Left out of the means of the metric that failed, and counted in the table of scores."
    return Table("failures", title, caption, columns, rows, (0,) * len(rows))


def _threads(count: Any) -> str:
    return "" if count is None else f" ({count} thread{'' if count == 1 else 's'})"


def _cell(about: Mapping[str, Any], cost: Cost, suffix: str) -> Cell:
    if cost.key not in about:
        return Cell("")
    value = about[cost.key]
    return Cell("n/a") if value is None else Cell(cost.text(value) + suffix, value)
