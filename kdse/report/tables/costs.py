"""The table of what systems cost to run and to train, and the list of what could not be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kdse.report.tables.table import Cell, Column, Table


class Cost(NamedTuple):
    """A column of costs: its title, and the text of a value."""

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


COSTS = {
    "parameters": Cost("parameters", "{:,d}".format),
    "macs_per_second": Cost("MACs / s of audio", _scaled),
    "real_time_factor": Cost("real-time factor", _factor),
    "streaming_real_time_factor": Cost("real-time factor, streaming", _factor),
    "latency_ms": Cost("latency ms", "{:.3g}".format),
    "model_bytes": Cost("model kB", lambda value: f"{value / 1000:,.0f}"),
    "training_seconds": Cost("training s", "{:,.0f}".format),
    "seconds_per_step": Cost("s / step", "{:.3g}".format),
    "steps": Cost("steps", "{:,d}".format, better=""),
    "seed": Cost("seed", "{:d}".format, better=""),
}
MEASURED = ("real_time_factor", "streaming_real_time_factor")
#: Sentences of the caption, by the columns that need them.
EXPLAINED = {
    ("macs_per_second",): "MACs: multiply-accumulates.",
    MEASURED: "Real-time factor: computing time per time of audio, on a CPU; small differences are noise.",
    ("latency_ms",): "Latency n/a: unknown, or the model needs the whole clip.",
    ("seconds_per_step",): ("s / step: mean time of an optimizer step, waiting for data included, validation not."),
    ("seconds_per_step", "training_seconds"): (
        "Training times compare only if the runs had the same machine to themselves."
    ),
}


def cost_table(costs: Mapping[str, Mapping[str, Any]]) -> Table:
    """What every system costs. Columns that no system has a value for are left out.

    ``costs`` is system to cost by key: those of `COSTS`, and ``threads``, on which real-time factors (seconds of
    computation per second of audio) were measured. A missing key is an empty cell, None is "n/a".
    """
    known = {key for about in costs.values() for key, value in about.items() if value is not None}
    timed = [about for about in costs.values() if any(about.get(key) is not None for key in MEASURED)]
    threads = {about.get("threads") for about in timed}
    columns = [Column("system", "system")]
    for key, cost in COSTS.items():
        stated = _threads(*threads) if key in MEASURED and len(threads) == 1 else ""
        columns.append(Column(key, cost.title + stated, cost.better))
    rows = []
    for system, about in costs.items():
        suffix = _threads(about.get("threads")) if len(threads) > 1 else ""
        cells = [_cell(about, key, suffix if key in MEASURED else "") for key in COSTS]
        rows.append((Cell.of(system), *cells))
    parts = [sentence for keys, sentence in EXPLAINED.items() if known & {*keys}]
    parts.append("Costs are not ranked: what is measured once has no interval.")
    table = Table("cost", "Cost", " ".join(parts), tuple(columns), tuple(rows), (0,) * len(rows))
    return table.without_empty(*COSTS)


def failure_table(failures: Iterable[Sequence[str]]) -> Table:
    """Every failed score: (set, system, item, metric, reason), as in `kdse.metrics.table.Summary`."""
    titles = {"set": "set", "system": "system", "name": "item", "metric": "metric", "reason": "reason"}
    columns = tuple(Column(key, title) for key, title in titles.items())
    rows = tuple(tuple(map(Cell.of, failure)) for failure in failures)
    caption = "Left out of the means of the metric that failed, and counted in the table of scores."
    title = "Items that could not be scored"
    return Table("failures", title, caption, columns, rows, (0,) * len(rows)).without_empty("set")


def _threads(count: Any) -> str:
    return "" if count is None else f" ({count} thread{'' if count == 1 else 's'})"


def _cell(about: Mapping[str, Any], key: str, suffix: str) -> Cell:
    if key not in about:
        return Cell("")
    value = about[key]
    return Cell("n/a") if value is None else Cell(COSTS[key].text(value) + suffix, value)
