"""Training curves of finished runs, with the switch of two-step runs marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.report.contents import Figure
from kdse.report.figures.drawing import (
    GREY,
    canvas,
    legend_below,
    looks,
    plain,
    to_png,
)
from kdse.report.run_folder import config_of, last_checkpoint
from kdse.report.tables.shown import shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from kdse.schedule import Phase


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
    column, factor = f"val/{metric}", shown(metric).factor
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for system, folder in runs.items():
        log = training_log(folder)
        if column in log and log[column].notna().any():
            rows = log[["step", column]].dropna()
            curves[system] = [float(s) + 1 for s in rows["step"]], [float(v) for v in rows[column]]
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


def training_log(run: str | Path) -> pd.DataFrame:
    """The CSV log of a run folder, one row a logged step; starts of a resumed run are joined, the later one wins.

    A run too short to have logged anything gives an empty table.
    """
    import pandas as pd

    starts = sorted(Path(run).glob("csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    starts = [
        path for path in [Path(run) / "csv" / "metrics.csv", *starts] if path.is_file() and path.stat().st_size > 1
    ]
    if not starts:
        return pd.DataFrame({"step": []})
    joined = pd.concat([pd.read_csv(path) for path in starts])
    return joined.groupby("step", as_index=False).last()


def switch_steps(run: str | Path) -> list[int]:
    """The optimizer steps at which a run's phases changed; empty if they did not, or nobody can tell.

    As the schedule stored them in the run's last checkpoint; without one, worked out from the config and the log. A
    switch that the run did not get to is none.
    """
    folder = Path(run)
    section = config_of(folder).get("schedule")
    if not isinstance(section, dict):
        return []
    starts, done = _stored_starts(folder) or _planned_starts(folder, section)
    return sorted({start for start in starts if 0 < start < done})


def _stored_starts(folder: Path) -> tuple[list[int], float] | None:
    from kdse.checkpoint import read_checkpoint

    try:
        content = read_checkpoint(last_checkpoint(folder))
        return [int(start) for start in content["callbacks"]["kdse.Schedule"]["starts"]], int(content["global_step"])
    except (ValueError, KeyError, TypeError):
        return None


def _planned_starts(folder: Path, section: dict[str, Any]) -> tuple[list[int], float]:
    from kdse.schedule import phase_starts

    config, log = config_of(folder), training_log(folder)
    trainer, data = config.get("trainer") or {}, (config.get("data") or {}).get("init_args") or {}
    try:
        epoch = math.ceil(data["steps_per_epoch"] / (trainer.get("accumulate_grad_batches") or 1))
    except (KeyError, TypeError):
        epoch = None
    limits = [trainer.get("max_steps") or -1, (trainer.get("max_epochs") or -1) * (epoch or math.inf)]
    total = min((limit for limit in limits if limit > 0), default=math.inf)
    try:
        starts = phase_starts(_phases(section), total, epoch)
    except (ValueError, TypeError, KeyError):
        return [], 0
    return starts, float(log["step"].max()) + 1 if len(log) else 0


def _phases(section: dict[str, Any]) -> list[Phase]:
    """The phases of a schedule's config; only kdse's own schedules can be read without running foreign code."""
    from kdse.schedule import Phase, Phases, TwoStep

    arguments = section.get("init_args") or {}
    name = str(section.get("class_path")).rpartition(".")[2]
    if name == "TwoStep":
        return TwoStep(**arguments).phases
    return Phases([Phase(**phase) for phase in arguments["phases"]]).phases
