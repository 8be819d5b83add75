"""Training curves of finished runs, with the switch of two-step runs marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdse.report.contents import Figure
from kdse.report.figures.drawing import GREY, canvas, legend_below, looks, plain, to_png
from kdse.report.tables.number_format import shown
from kdse.run.log import history
from kdse.run.switches import switch_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_curves(
    runs: Mapping[str, str | Path], metric: str = "si_sdr", systems: Sequence[str] | None = None
) -> Figure | None:
    """A validation metric against optimizer steps, one line a run, a dashed line where a run's phase changed.

    Runs without values in their log are left out and named in the alt text; None if none has two.

    Args:
        runs: system to run folder.
        metric: name of a metric, or ``loss``; the log's column is ``val/<metric>``.
        systems: all systems of the report, which decides colours; None means those of ``runs``.
    """
    metric = metric.removeprefix("val/")
    factor = shown(metric).factor
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for system, folder in runs.items():
        if logged := history(folder, f"val/{metric}"):
            curves[system] = [float(step) for step in logged], list(logged.values())
    if all(len(steps) < 2 for steps, _ in curves.values()):
        return None
    look = looks(systems or list(runs))
    figure = canvas(height=3.7)
    axis = figure.add_subplot()
    marked: dict[int, list[str]] = {}
    for system, (steps, values) in curves.items():
        colour, marker = look[system]
        dense = len(steps) > 20
        axis.plot(
            steps, [v * factor for v in values], color=colour, marker="" if dense else marker, markersize=4.5,
            linewidth=1.5, label=system,
        )  # fmt: skip
        for step in switch_steps(runs[system]):
            marked.setdefault(step, []).append(system)
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(f"validation {shown(metric).title}{' (lower is better)' if _lower_is_better(metric) else ''}")
    axis.set_xlim(left=0)
    _mark_switches(axis, marked, {system: look[system].colour for system in curves})
    plain(axis)
    legend_below(figure, *axis.get_legend_handles_labels())
    return Figure(
        key=f"training_curves_{metric}",
        title=f"Validation {shown(metric).title} during training",
        alt=_alt(curves, metric, marked, [system for system in runs if system not in curves]),
        png=to_png(figure),
    )


def _mark_switches(axis: Axes, marked: Mapping[int, Sequence[str]], colours: Mapping[str, str]) -> None:
    """A dashed line at every switch, with whose it is above the frame; neighbours on rows of their own."""
    low, high = axis.get_xlim()
    row, last = 0, -math.inf
    for step, systems in sorted(marked.items()):
        alone = len(systems) == 1
        colour = colours[systems[0]] if alone else GREY
        row = (row + 1) % 3 if step - last < 0.22 * (high - low) else 0
        last = step
        axis.axvline(step, color=colour, linestyle=(0, (4, 3)), linewidth=1)
        whose = f" of {systems[0] if alone else f'{len(systems)} runs'}" if len(colours) > 1 else ""
        axis.annotate(
            f"switch{whose}", (step, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
            xytext=(0, 3 + 10 * row), fontsize=8, ha="center", va="bottom", color=colour, annotation_clip=False,
        )  # fmt: skip


def _alt(
    curves: dict[str, tuple[list[float], list[float]]], metric: str, switches: dict[int, list[str]], missing: list[str]
) -> str:
    best = min if _lower_is_better(metric) else max
    parts = []
    for system, (steps, values) in curves.items():
        place = values.index(best(values))
        at = [step for step, names in switches.items() if system in names]
        switched = f", phase changed at step {', '.join(map(str, at))}" if at else ""
        parts.append(
            f"{system} ends at {shown(metric).number(values[-1])} after {steps[-1]:.0f} steps "
            f"(best {shown(metric).number(values[place])} at {steps[place]:.0f}{switched})"
        )
    left_out = f" No log to draw: {', '.join(missing)}." if missing else ""
    return f"Validation {shown(metric).title} against optimizer steps: {'; '.join(parts)}.{left_out}"


def _lower_is_better(metric: str) -> bool:
    return metric == "loss" or not shown(metric).higher_is_better
