"""The pictures of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from kdse.report.contents import Figure
from kdse.sweeps.definition import Sweep
from kdse.sweeps.figures.by_parameter import by_parameter
from kdse.sweeps.figures.heat_map import heat_map
from kdse.sweeps.figures.pareto import pareto
from kdse.sweeps.rows import Row

__all__ = ["pictures"]


def pictures(sweep: Sweep, found: Sequence[Row]) -> list[Figure]:
    """Those that the sweep has something to show in."""
    quality = shown_metric(sweep, found)
    drawn = [heat_map(sweep, found, quality), pareto(sweep, found, quality), by_parameter(sweep, found)]
    return [figure for figure in drawn if figure is not None]


def shown_metric(sweep: Sweep, found: Sequence[Row]) -> str:
    """The improvement of the sweep's metric over the noisy input where runs log it, else the metric itself."""
    improvement = f"{sweep.metric}_improvement"
    return improvement if any(improvement in row.metrics for row in found) else sweep.metric
