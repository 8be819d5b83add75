"""Two parameters of a sweep against each other, one panel for every value of the others."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdse.report.contents import Figure
from kdse.report.figures.drawing import DPI, GREY, INK, WIDTH, canvas, literal, plain
from kdse.sweeps.definition import Sweep
from kdse.sweeps.rows import Row
from kdse.sweeps.titles import (
    distinct,
    key_of,
    metric_factor,
    metric_text,
    metric_title,
    minus,
    parameter_title,
    point_key,
    point_titles,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from matplotlib.image import AxesImage

ACROSS, DOWN, SEED = "data.snr_db", "model.compression", "seed_everything"
#: More panels than this are a table's work.
PANELS = 6
DIFFERENCE = "difference (middle − left)"
#: Inches of one row of cells, and of everything above and below them.
ROW, LOW_ROW, AROUND = 0.42, 0.29, 1.25
Cells = dict[tuple[int, int], float]


def heat_map(sweep: Sweep, found: Sequence[Row], metric: str) -> Figure | None:
    """A metric over two listed parameters: compression down, SNR across, if they are swept.

    Every combination of other parameters has a panel on one colour scale; of exactly two panels there is the
    difference too. Seeds are averaged. Cells without a finished run say why. None if fewer than two listed parameters
    vary, or any other does, or there would be too many panels.
    """
    varying = [p for p in sweep.parameters if p.varies and p.name != SEED]
    if len(varying) < 2 or any(p.distribution != "categorical" for p in varying):
        return None
    listed = {p.name: p.listed for p in varying}
    down, across = _axes(list(listed))
    others = [name for name in listed if name not in (down, across)]
    titles = point_titles([row.values for row in found if row.values], others)
    groups = list(titles.values())
    if not 1 <= len(groups) <= PANELS:
        return None
    panels = {
        title: _cells([r for r in found if r.values and point_key(r.values, others) == key], listed, down, across)
        for key, title in titles.items()
    }
    values = {group: _means(cells, metric) for group, cells in panels.items()}
    known = [value for cells in values.values() for value in cells.values()]
    if not known:
        return None
    shape = (len(listed[down]), len(listed[across]))
    left, right = values[groups[0]], values[groups[-1]]
    difference = {p: right[p] - left[p] for p in left if p in right} if len(groups) == 2 else {}
    count = len(groups) + bool(difference)
    per_row = min(count, 3)
    lines = math.ceil(count / per_row)
    row = ROW if down == DOWN else LOW_ROW
    figure = canvas(height=lines * (row * shape[0] + AROUND), width=WIDTH if count > 1 else 0.75 * WIDTH)
    axes = figure.subplots(lines, per_row, squeeze=False).ravel()
    scale = (min(known), max(known) if max(known) > min(known) else min(known) + 1e-9)
    images = [_draw(axes[i], group, values[group], shape, "viridis", scale, metric) for i, group in enumerate(groups)]
    for axis, group in zip(axes, groups, strict=False):
        _say_why(axis, panels[group], values[group])
    if difference:
        axis, largest = axes[len(groups)], max(abs(value) for value in difference.values()) or 1e-9
        own = _draw(axis, DIFFERENCE, difference, shape, "PuOr", (-largest, largest), metric, sign=True)
        _bar(figure, own, [axis], "difference")
    for place, axis in enumerate(axes):
        if place >= count:
            axis.set_visible(False)
            continue
        first = place % per_row == 0
        axis.set_xticks(range(shape[1]), [*map(literal, distinct(across, listed[across]).values())])
        axis.set_yticks(range(shape[0]), [*map(literal, _names(found, down, listed[down]))] if first else [])
        axis.set_ylabel(literal(_side(found, down)) if first else "")
        axis.set_xlabel(literal(parameter_title(across)))
    _bar(figure, images[0], list(axes[: len(groups)]), metric_title(metric))
    if across == ACROSS:
        figure.supxlabel("each run is trained and validated at the SNRs of its column", fontsize=7.5, color=GREY)
    return Figure(
        key="heat_map",
        title=f"{metric_title(metric)} by {parameter_title(down)} and {parameter_title(across)}",
        alt=_alt(values, difference, listed, down, across, metric, found),
        png=_png(figure),
    )


def _axes(names: list[str]) -> tuple[str, str]:
    """The parameters that go down and across."""
    if ACROSS in names:
        rest = [name for name in names if name != ACROSS]
        return (DOWN if DOWN in rest else rest[0]), ACROSS
    if DOWN in names:
        return next(name for name in names if name != DOWN), DOWN
    return names[0], names[1]


def _cells(
    rows: Sequence[Row], listed: Mapping[str, list[Any]], down: str, across: str
) -> dict[tuple[int, int], list[Row]]:
    found: dict[tuple[int, int], list[Row]] = {}
    lines, columns = ({key_of(v): i for i, v in enumerate(listed[name])} for name in (down, across))
    for row in rows:
        place = (lines[key_of(row.values[down])], columns[key_of(row.values[across])])
        found.setdefault(place, []).append(row)
    return found


def _means(cells: Mapping[tuple[int, int], Sequence[Row]], metric: str) -> Cells:
    """The mean over the finished runs of every cell, as it is shown."""
    found = {}
    for place, rows in cells.items():
        values = [r.metrics[metric] for r in rows if r.state == "finished" and metric in r.metrics]
        if values:
            found[place] = metric_factor(metric) * math.fsum(values) / len(values)
    return found


def _draw(
    axis: Axes, title: str, values: Cells, shape: tuple[int, int], colours: str, scale: tuple[float, float],
    metric: str, sign: bool = False,
) -> AxesImage:  # fmt: skip
    import numpy as np

    matrix = np.full(shape, np.nan)
    for place, value in values.items():
        matrix[place] = value
    image = axis.imshow(matrix, cmap=colours, aspect="auto", vmin=scale[0], vmax=scale[1])
    axis.set_title(literal(title), fontsize=9.5, color=INK)
    plain(axis)
    axis.grid(False)
    axis.set_facecolor("#ececec")
    for side in axis.spines.values():
        side.set_visible(False)
    axis.tick_params(length=0)
    for (row, column), value in values.items():
        red, green, blue, _ = image.to_rgba(np.array(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        text = metric_text(metric, value / metric_factor(metric), sign)
        axis.text(
            column, row, text.replace("-", "−"), ha="center", va="center", fontsize=8.5,
            color="white" if dark else "black",
        )  # fmt: skip
    return image


def _say_why(axis: Axes, cells: Mapping[tuple[int, int], Sequence[Row]], values: Cells) -> None:
    """What became of the cells that have no value."""
    for (row, column), rows in cells.items():
        if (row, column) not in values:
            state = rows[-1].state.replace("stopped early", "stopped\nearly")
            axis.text(column, row, state, ha="center", va="center", fontsize=7, color=GREY)


def _bar(figure: Canvas, image: AxesImage, axes: list[Axes], title: str) -> None:
    bar: Any = figure.colorbar(image, ax=axes, location="bottom", aspect=14 * len(axes), pad=0.03)
    bar.set_label(title, fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.ax.xaxis.set_major_formatter(lambda value, _: minus(round(value, 6)))
    bar.outline.set_visible(False)


def _sizes(found: Sequence[Row]) -> dict[float | None, int]:
    """Compression to parameters of the student, where all students of a compression have one size."""
    sizes: dict[float | None, set[int]] = {}
    for row in found:
        if row.parameters is not None and row.values:
            sizes.setdefault(row.values.get(DOWN), set()).add(row.parameters)
    return {ratio: next(iter(counts)) for ratio, counts in sizes.items() if len(counts) == 1}


def _names(found: Sequence[Row], name: str, values: Sequence[Any]) -> list[str]:
    sizes = _sizes(found) if name == DOWN else {}
    words = distinct(name, values).values()
    sized = [f"\n{sizes[v] / 1000:.0f}k" if name == DOWN and v in sizes else "" for v in values]
    return [f"{word}{size}" for word, size in zip(words, sized, strict=True)]


def _side(found: Sequence[Row], name: str) -> str:
    return f"{parameter_title(name)}{', student size' if name == DOWN and _sizes(found) else ''}"


def _alt(
    values: Mapping[str, Cells], difference: Cells, listed: Mapping[str, list[Any]], down: str, across: str,
    metric: str, found: Sequence[Row],
) -> str:  # fmt: skip
    parts = []
    lines, columns = (list(distinct(name, listed[name]).values()) for name in (down, across))
    for group, cells in [*values.items(), *([(DIFFERENCE, difference)] if difference else [])]:
        each = [
            f"{lines[row]} at {columns[column]} "
            f"{metric_text(metric, value / metric_factor(metric), sign=group == DIFFERENCE)}"
            for (row, column), value in sorted(cells.items())
        ]
        parts.append(f"{group}: {', '.join(each)}" if group else ", ".join(each))
    seeds = {str(row.values.get(SEED)) for row in found if SEED in row.values}
    averaged = f" Cells are means over {len(seeds)} seeds." if len(seeds) > 1 else ""
    where = (
        " A run is validated at the SNRs it is trained at, so columns have other validation items; compare within one."
        if across == ACROSS
        else ""
    )
    axes = f"{parameter_title(down)} and {parameter_title(across)}"
    return f"{metric_title(metric)} of the last validation by {axes}. {'; '.join(parts)}.{averaged}{where}"


def _png(figure: Canvas) -> bytes:
    """With all of its colours: 128, as other figures have, would tint the cells."""
    from PIL import Image

    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        image.convert("RGB").save(packed, format="png", optimize=True)
    return packed.getvalue()
