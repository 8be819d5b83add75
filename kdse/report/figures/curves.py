"""Training curves of finished runs, with the switch of two-step runs marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdse.report.contents import Figure
from kdse.report.figures.drawing import GREY, canvas, legend_below, literal, looks, plain, to_png
from kdse.report.tables.table import shown
from kdse.run.log import history
from kdse.run.switches import switch_steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_curves(
    runs: Mapping[str, str | Path], metric: str = "si_sdr", systems: Sequence[str] | None = None
) -> Figure | None:
    """A validation metric, or "loss", against optimizer steps; dashed lines where a run's phase changed.

    Runs without values in their log are left out and named in the alt text; None if none has two.

    Args:
        runs: system to run folder.
        metric: the log's column is ``val/<metric>``.
        systems: all systems of the report, which decides colours; None means those of ``runs``.
    """
    about = shown(metric)
    if metric == "loss":
        about = about._replace(higher_is_better=False)
    curves: dict[str, dict[float, float]] = {}
    for system, folder in runs.items():
        if logged := history(folder, f"val/{metric}"):
            curves[system] = {float(step): value for step, value in logged.items()}
    if all(len(curve) < 2 for curve in curves.values()):
        return None
    look = looks(systems or list(runs))
    figure = canvas(height=3.7)
    axis = figure.add_subplot()
    for system, curve in curves.items():
        axis.plot(
            list(curve), [v * about.factor for v in curve.values()], color=look[system].colour,
            marker="" if len(curve) > 20 else look[system].marker, markersize=4.5, linewidth=1.5, label=literal(system),
        )  # fmt: skip
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(f"validation {about.axis_title}")
    axis.set_xlim(left=0)
    switches = {system: switch_steps(runs[system]) for system in curves}
    _mark_switches(axis, switches, {system: look[system].colour for system in curves})
    plain(axis)
    legend_below(figure, axis)

    parts = []
    for system, curve in curves.items():
        best = max(curve.values()) if about.higher_is_better else min(curve.values())
        place = next(step for step, value in curve.items() if value == best)
        switched = f", phase changed at step {', '.join(map(str, switches[system]))}" if switches[system] else ""
        last = list(curve)[-1]
        parts.append(
            f"{system} ends at {about.number(curve[last])} after {last:.0f} steps "
            f"(best {about.number(best)} at {place:.0f}{switched})"
        )
    missing = [system for system in runs if system not in curves]
    left_out = f" No log to draw: {', '.join(missing)}." if missing else ""
    return Figure(
        key=f"training_curves_{metric}",
        title=f"Validation {about.title} during training",
        alt=f"Validation {about.title} against optimizer steps: {'; '.join(parts)}.{left_out}",
        png=to_png(figure),
    )


def _mark_switches(axis: Axes, switches: Mapping[str, Sequence[int]], colours: Mapping[str, str]) -> None:
    """A dashed line at every switch, with whose it is above the frame; neighbours on rows of their own."""
    low, high = axis.get_xlim()
    row, last = 0, -math.inf
    for step in sorted({step for steps in switches.values() for step in steps}):
        systems = [system for system, steps in switches.items() if step in steps]
        alone = len(systems) == 1
        colour = colours[systems[0]] if alone else GREY
        row = (row + 1) % 3 if step - last < 0.22 * (high - low) else 0
        last = step
        axis.axvline(step, color=colour, linestyle=(0, (4, 3)), linewidth=1)
        whose = f" of {systems[0] if alone else f'{len(systems)} runs'}" if len(colours) > 1 else ""
        axis.annotate(
            literal(f"switch{whose}"), (step, 1), xycoords=("data", "axes fraction"), textcoords="offset points",
            xytext=(0, 3 + 10 * row), fontsize=8, ha="center", va="bottom", color=colour, annotation_clip=False,
        )  # fmt: skip
