"""The pictures of a sweep: heat map, Pareto front, and the metric over each searched parameter."""

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
    """Those that the sweep has something to show in, of its metric's improvement over the noisy input if it has it."""
    improvement = f"{sweep.metric}_improvement"
    metric = improvement if any(improvement in row.metrics for row in found) else sweep.metric
    drawn = [heat_map(sweep, found, metric), pareto(sweep, found, metric), by_parameter(sweep, found)]
    return [figure for figure in drawn if figure is not None]
