"""Quality against size over the points of a sweep, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from kdse.report.contents import Figure
from kdse.report.figures.drawing import GREY, INK, WIDTH, canvas, literal, looks, plain, to_png
from kdse.report.figures.pareto import pareto_front
from kdse.sweeps.definition import Sweep
from kdse.sweeps.figures.heat_map import ACROSS, DOWN, SEED
from kdse.sweeps.rows import Row
from kdse.sweeps.titles import metric_factor, metric_text, metric_title, point_key, point_titles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: More series than this are drawn in grey, and those on the front are named.
NAMED = 5
PER_ROW = 3


def pareto(sweep: Sweep, found: Sequence[Row], metric: str) -> Figure | None:
    """A metric against parameters of the student (log axis): a panel for each SNR range, a line for each other value.

    Dashed is the front: no run of at most that size has more. Only finished runs count, seeds are averaged. None if
    fewer than two sizes are known.
    """
    varying = [p.name for p in sweep.parameters if p.varies and p.name not in (DOWN, SEED)]
    others = [name for name in varying if name != ACROSS]
    ended = [r for r in found if r.state == "finished" and r.parameters and metric in r.metrics]
    if len({row.parameters for row in ended}) < 2:
        return None
    values = [row.values for row in ended]
    series = point_titles(values, others)
    apart = [ACROSS] if ACROSS in varying else []
    ranges = point_titles(values, apart)
    named = len(series) <= NAMED
    per_row = min(PER_ROW, len(ranges))
    lines = math.ceil(len(ranges) / per_row)
    figure = canvas(height=0.6 + 2.7 * lines, width=WIDTH if per_row > 1 else 5.2)
    axes = figure.subplots(lines, per_row, squeeze=False, sharex=True, sharey=True).ravel()
    look = looks(list(series))
    alts = []
    for axis, (key, where) in zip(axes, ranges.items(), strict=False):
        here = [r for r in ended if point_key(r.values, apart) == key]
        alts.append(_draw(axis, here, others, series, look, metric, named, where, sweep.maximize))
        axis.set_title(literal(where))
        plain(axis)
    sizes = sorted({int(row.parameters or 0) for row in ended})
    for place, axis in enumerate(axes):
        axis.set_visible(place < len(ranges))
        _size_axis(axis, sizes)
        if place % per_row == 0:
            axis.set_ylabel(literal(metric_title(metric)))
        if place + per_row >= len(ranges):
            axis.tick_params(labelbottom=True)
    figure.supxlabel("parameters of the student (log scale; dashed: best up to its size)", fontsize=9, color=INK)
    if named and list(series.values()) != [""]:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8)
    return Figure(
        key="pareto",
        title=f"{metric_title(metric)} against parameters",
        alt=f"{metric_title(metric)} of the last validation against parameters of the student. {' '.join(alts)}",
        png=to_png(figure),
    )


def _draw(
    axis: Axes, here: Sequence[Row], others: Sequence[str], series: Mapping[str, str], look: dict, metric: str,
    named: bool, where: str, higher: bool,
) -> str:  # fmt: skip
    points: list[tuple[str, float, float]] = []
    for key, name in series.items():
        own: dict[int, list[float]] = {}
        for row in here:
            if point_key(row.values, others) == key:
                own.setdefault(int(row.parameters or 0), []).append(row.metrics[metric] * metric_factor(metric))
        line = [(size, math.fsum(values) / len(values)) for size, values in sorted(own.items())]
        points += [(name, size, value) for size, value in line]
        colour, marker = look[key] if named else (GREY, ".")
        axis.plot(
            [size for size, _ in line], [value for _, value in line], color=colour, marker=marker, markersize=5,
            linewidth=1.1 if named else 0, alpha=1 if named else 0.7, label=literal(name), zorder=3,
        )  # fmt: skip
    front = pareto_front([size for _, size, _ in points], [value for *_, value in points], higher)
    best = [points[i] for i in front]
    axis.plot(
        [size for _, size, _ in best], [value for *_, value in best], drawstyle="steps-post", color=INK, linewidth=0.9,
        linestyle=(0, (4, 2)), zorder=2,
    )  # fmt: skip
    if not named:
        for name, size, value in best:
            axis.plot([size], [value], color=INK, marker="o", markersize=4.5, zorder=4)
            axis.annotate(
                literal(name),
                (size, value),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=7.5,
                color=INK,
                zorder=5,
            )
    texts = [
        f"{name or 'the run'} at {size:,.0f} ({metric_text(metric, value / metric_factor(metric))})"
        for name, size, value in best
    ]
    return f"{where + ': b' if where else 'B'}est up to their size: {'; '.join(texts)}."


def _size_axis(axis: Axes, sizes: Sequence[int]) -> None:
    """A log axis with the students' own sizes on it, those that have room."""
    from matplotlib.ticker import NullLocator

    axis.set_xscale("log")
    width = math.log(sizes[-1] / sizes[0])
    kept: list[int] = []
    for size in sizes:
        if not kept or math.log(size / kept[-1]) > 0.16 * width:
            kept.append(size)
    axis.set_xticks(kept, [f"{size / 1000:.0f}k" if size >= 10000 else f"{size / 1000:.1f}k" for size in kept])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.margins(x=0.12, y=0.12)
