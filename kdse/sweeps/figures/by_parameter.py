"""A sweep's metric over each parameter that was searched on a scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdse.report.contents import Figure
from kdse.report.figures.drawing import GREY, INK, PALETTE, WIDTH, canvas, legend_below, literal, plain, to_png
from kdse.sweeps.definition import Sweep
from kdse.sweeps.rows import Row
from kdse.sweeps.titles import metric_factor, metric_text, metric_title, parameter_title

PER_ROW = 2


def by_parameter(sweep: Sweep, found: Sequence[Row]) -> Figure | None:
    """One dot a run, a panel for each parameter with a distribution; runs stopped early are hollow.

    None if there is no such parameter, or fewer than two runs to draw.
    """
    metric, factor = sweep.metric, metric_factor(sweep.metric)
    scales = [p for p in sweep.parameters if p.varies and not p.distribution.startswith("categorical")]
    drawn = [r for r in found if r.state in ("finished", "stopped early") and metric in r.metrics]
    if not scales or len(drawn) < 2:
        return None
    finished = [row for row in drawn if row.state == "finished"]
    best = (max if sweep.maximize else min)(finished, key=lambda r: r.metrics[metric], default=None)
    per_row = min(PER_ROW, len(scales))
    lines = math.ceil(len(scales) / per_row)
    figure = canvas(height=0.5 + 2.8 * lines, width=WIDTH if per_row > 1 else 5.2)
    axes = figure.subplots(lines, per_row, squeeze=False, sharey=True).ravel()
    for axis, parameter in zip(axes, scales, strict=False):
        if "log" in parameter.distribution:
            axis.set_xscale("log")
        for state, face, edge in (("finished", PALETTE[0], PALETTE[0]), ("stopped early", "none", GREY)):
            places = [(r.values[parameter.name], r.metrics[metric] * factor) for r in drawn if r.state == state]
            if places:
                axis.scatter(*zip(*places, strict=True), s=26, facecolors=face, edgecolors=edge, label=state, zorder=3)
        if best is not None:
            place = (best.values[parameter.name], best.metrics[metric] * factor)
            axis.annotate(
                f"best: {place[0]:.3g}", place, textcoords="offset points", xytext=(0, 6), fontsize=8, color=INK,
                ha="center",
            )  # fmt: skip
        axis.set_xlabel(literal(parameter_title(parameter.name)))
        axis.margins(y=0.15)
        plain(axis)
    for axis in axes[len(scales) :]:
        axis.set_visible(False)
    for axis in axes[::per_row]:
        axis.set_ylabel(f"{literal(metric_title(metric))}, last validation")
    legend_below(figure, axes[0])
    names = ", ".join(parameter.name for parameter in scales)
    told = ""
    if best is not None:
        where = ", ".join(f"{parameter.name} {best.values[parameter.name]:.4g}" for parameter in scales)
        told = f" Best {metric_text(metric, best.metrics[metric])} at {where}."
    return Figure(
        key="by_parameter",
        title=f"{metric_title(metric)} over {names}",
        alt=f"{metric_title(metric)} of the last validation of {len(drawn)} runs over {names}, "
        f"{len(drawn) - len(finished)} of them stopped early.{told}",
        png=to_png(figure),
    )
