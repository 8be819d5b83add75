"""Looks of systems, axes, legend and PNG: what all figures share.

Drawn with matplotlib's objects, not with pyplot, so that it works in threads and without a display.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from kdse.metrics.table import NOISY
from kdse.metrics.uncertainty import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

#: Width of every figure in inches, and its pixels an inch: sharp at 700 px on screens of double density.
WIDTH = 7.0
DPI = 200
GREY = "#8a8a8a"
INK = "#222222"
#: Okabe and Ito's palette for every kind of colour vision (2008) without its yellow, then darker ones of Paul Tol's.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
    "#332288", "#882255", "#999933", "#661100",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")


class Look(NamedTuple):
    """Colour and marker of a system."""

    colour: str
    marker: str


def looks(systems: Sequence[str]) -> dict[str, Look]:
    """Colour and marker of every system by its place in the list; "noisy" is grey, no two of the first 110 are alike.

    Give all figures of a report the same list, so that a system looks the same in every one of them.
    """
    named = [system for system in dict.fromkeys(systems) if system != NOISY]
    found = {s: Look(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, s in enumerate(named)}
    return {s: Look(GREY, ".") if s == NOISY else found[s] for s in dict.fromkeys(systems)}


def canvas(height: float, width: float = WIDTH) -> Canvas:
    """An empty figure of this many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain(axis: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Small type, light grid, no frame on the top and right."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set(color=GREY, linewidth=0.8)
    axis.tick_params(labelsize=8, color=GREY, labelcolor=INK, length=3)
    axis.grid(axis=grid, color="#e4e4e4", linewidth=0.7)
    axis.set_axisbelow(True)
    for label in (axis.xaxis.label, axis.yaxis.label):
        label.set(fontsize=9, color=INK)
    axis.title.set(fontsize=9.5, color=INK)


def literal(text: str) -> str:
    """Text that matplotlib draws as it is: no formula between dollars, and no legend entry hidden by its underscore."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def means(
    axis: Axes, x: Sequence[float], intervals: Sequence[Interval], factor: float, look: Look, bars: bool, **style: Any
) -> None:
    """Draws means times a factor with their intervals as bars, or without."""
    middle = [interval.mean * factor for interval in intervals]
    down = [max(0.0, m - i.low * factor) for m, i in zip(middle, intervals, strict=True)]  # (0 for NaN)
    up = [max(0.0, i.high * factor - m) for m, i in zip(middle, intervals, strict=True)]
    axis.errorbar(x, middle, yerr=[down, up] if bars else None, color=look.colour, marker=look.marker, **style)


def legend_below(figure: Canvas, axis: Axes) -> None:
    """One legend under all panels, in as many columns as its longest entry leaves room for."""
    handles, labels = axis.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=1)
    columns = max(1, min(len(labels), int(figure.get_figwidth() * 14 / (longest + 6))))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8, handlelength=2.2,
        columnspacing=1.4,
    )  # fmt: skip


def to_png(figure: Canvas) -> bytes:
    """The picture, with 128 colours at most: a third of the bytes, and nobody sees it."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(packed, format="png", optimize=True)
    return packed.getvalue()
