"""Similarity of teacher and student, block by block, as the two-step paper's figure 2 shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdse.report.contents import Figure, file_name
from kdse.report.figures.drawing import GREY, INK, WIDTH, Look, canvas, legend_below, literal, looks, plain, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kdse.report.similarity import Similarity

#: Moments of one run, in no system's colour.
MOMENTS = {"before": Look(GREY, "o"), "at the switch": Look("#7a5195", "s"), "after": Look(INK, "D")}


def similarity(similarities: Mapping[str, Similarity], system: str = "") -> Figure | None:
    """Heat maps of teacher-student CKA on one colour scale, and below them the diagonal of each, block by block.

    None without similarities; their labels are "before", "after", or names of systems. ``system`` is for the title.
    """
    if not similarities:
        return None
    count = len(similarities)
    paired = any(not math.isnan(value) for s in similarities.values() for value in s.diagonal)
    side = WIDTH / max(count, 2) - 0.35
    figure = canvas(height=0.85 * side + 0.75 + (2.35 if paired else 0))
    grid = figure.add_gridspec(2 if paired else 1, count, height_ratios=(side, 1.9) if paired else None)
    panels = [figure.add_subplot(grid[0, place]) for place in range(count)]
    beside: tuple[str, ...] = ()
    for panel, (label, entry) in zip(panels, similarities.items(), strict=True):
        image = panel.imshow(entry.matrix, origin="lower", vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
        panel.set_title(f"{literal(label)}\ndiagonal {_number(entry.mean_diagonal)}, all {_number(entry.mean_all)}")
        plain(panel)
        panel.grid(False)
        panel.set_xlabel("teacher block")
        panel.set_xticks(range(len(entry.teacher)), _short(entry.teacher), rotation=90)
        panel.set_yticks(range(len(entry.student)), [] if entry.student == beside else _short(entry.student))
        panel.set_ylabel("" if entry.student == beside else "student block")
        panel.set_facecolor("#dddddd")  # what is NaN
        panel.tick_params(labelsize=7.5)
        beside = entry.student
    bar = figure.colorbar(image, ax=panels, label="linear CKA", fraction=0.05, pad=0.015)
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.label.set(fontsize=9, color=INK)
    bar.outline.set_visible(False)
    if paired:
        lines = figure.add_subplot(grid[1, :])
        _draw_diagonals(lines, similarities)
        legend_below(figure, lines)
    parts = []
    for label, entry in similarities.items():
        blocks = ", ".join(f"{n} {_number(v)}" for n, v in zip(entry.student, entry.diagonal, strict=True))
        averages = f"mean of same blocks {_number(entry.mean_diagonal)}, of all pairs {_number(entry.mean_all)}"
        parts.append(f"{label}: {averages} ({blocks})")
    return Figure(
        key=file_name(f"similarity_{system}"),
        title=f"Similarity of the teacher and {system}, block by block"
        if system
        else "Similarity to the teacher by block",
        alt=f"Linear CKA of every student block with every teacher block, 0 to 1. {'; '.join(parts)}.",
        png=to_png(figure),
    )


def _draw_diagonals(axis: Axes, similarities: Mapping[str, Similarity]) -> None:
    look = looks(list(similarities)) | MOMENTS
    for label, entry in similarities.items():
        axis.plot(
            range(len(entry.student)), entry.diagonal, color=look[label].colour, marker=look[label].marker,
            markersize=5, linewidth=1.4, label=literal(label),
        )  # fmt: skip
    longest = max((entry.student for entry in similarities.values()), key=len)
    axis.set_xticks(range(len(longest)), map(literal, longest))
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("CKA of same blocks")
    plain(axis)


def _short(names: tuple[str, ...]) -> list[str]:
    """Names that fit beside a small picture."""
    short = [n.replace("encoder", "enc").replace("decoder", "dec").replace("bottleneck", "mid") for n in names]
    return [literal(name[-10:]) for name in short]


def _number(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.2f}"
