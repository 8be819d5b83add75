"""Quality against size: which systems are worth their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdse.metrics.table import NOISY
from kdse.metrics.uncertainty import Interval
from kdse.report.contents import Figure
from kdse.report.figures.drawing import GREY, INK, canvas, literal, looks, means, plain, to_png
from kdse.report.figures.labels import Box, place_names
from kdse.report.tables.table import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Systems whose costs differ by less than this factor are drawn side by side, so far apart (share of the axis).
SAME_COST = 1.03
ASIDE = 0.024


@dataclass(frozen=True)
class Point:
    """One system: its mean quality with interval (raw values of one metric), and its costs by name, None if unknown."""

    system: str
    quality: Interval
    costs: Mapping[str, float | None]


def pareto_front(costs: Sequence[float], qualities: Sequence[float], higher_is_better: bool = True) -> list[int]:
    """Places of the points that no other point beats, by rising cost.

    A point is beaten by one that costs no more and is no worse, and is better in one of the two. NaN is on no front.
    """
    sign = 1.0 if higher_is_better else -1.0
    known = [i for i in range(len(costs)) if math.isfinite(costs[i]) and math.isfinite(qualities[i])]
    known.sort(key=lambda i: (costs[i], -sign * qualities[i]))
    front: list[int] = []
    for i in known:
        last = front[-1] if front else None
        twin = last is not None and (costs[i], qualities[i]) == (costs[last], qualities[last])
        if last is None or twin or sign * qualities[i] > sign * qualities[last]:
            front.append(i)
    return front


def pareto(points: Sequence[Point], metric: str, cost: str, systems: Sequence[str] | None = None) -> Figure | None:
    """Mean quality against cost (log axis) with intervals, names beside the points, and the Pareto front dashed.

    The noisy input is a line: it costs nothing. Systems of unknown cost or quality are left out and named in the alt
    text, those of one size drawn side by side. None if fewer than two sizes remain.

    Args:
        points, metric, cost: the systems, what their quality is measured in, and which of their costs counts.
        systems: all systems of the report, which decides colours; None means those of ``points``.
    """
    title, about = cost.replace("_", " "), shown(metric)
    candidates = [p for p in points if p.system != NOISY]
    drawn = [p for p in candidates if (p.costs.get(cost) or 0) > 0 and math.isfinite(p.quality.mean)]
    costs = [float(p.costs[cost] or 0) for p in drawn]
    if len(set(costs)) < 2:
        return None
    front = pareto_front(costs, [p.quality.mean for p in drawn], about.higher_is_better)
    look = looks(systems or [p.system for p in points])
    figure = canvas(height=4.0)
    axis = figure.add_subplot()
    axis.set_xscale("log")
    axis.margins(x=0.14, y=0.14)
    x, y = _side_by_side(costs), [p.quality.mean * about.factor for p in drawn]
    axis.plot(
        [x[i] for i in front], [y[i] for i in front], drawstyle="steps-post", color=GREY, linewidth=1, zorder=1,
        linestyle=(0, (4, 2)),
    )  # fmt: skip
    for point, across in zip(drawn, x, strict=True):
        style = {"markersize": 6, "linewidth": 1.1, "zorder": 3}
        means(axis, [across], [point.quality], about.factor, look[point.system], bars=True, **style)
    axis.set_xlabel(f"{title} (log scale, equal sizes side by side; dashed: best at its size)")
    axis.set_ylabel(about.axis_title)
    _ticks(axis)
    plain(axis)
    noisy = next((p.quality.mean for p in points if p.system == NOISY and math.isfinite(p.quality.mean)), None)
    if noisy is not None:
        _draw_noisy(axis, noisy * about.factor, about.number(noisy))
    figure.canvas.draw()
    figure.set_layout_engine("none")  # positions are known from here on, and stay
    _write_names(axis, [p.system for p in drawn], x, y, front)

    parts = []
    for point, size in zip(drawn, costs, strict=True):
        mean, low, high = (about.number(value) for value in point.quality[:3])
        parts.append(f"{point.system} {mean} [{low}, {high}] at {f'{size:,.0f}' if size >= 1000 else f'{size:.3g}'}")
    missing = [p.system for p in candidates if p not in drawn]
    left_out = f" Size or quality unknown: {', '.join(missing)}." if missing else ""
    best = f"Best at their size: {', '.join(drawn[i].system for i in front)}."
    return Figure(
        key=f"{metric}_by_{cost}",
        title=f"{about.title} against {title}",
        alt=f"{about.title} with 95 % intervals against {title}: {'; '.join(parts)}. {best}{left_out}",
        png=to_png(figure),
    )


def _side_by_side(costs: Sequence[float]) -> list[float]:
    """Where points are drawn: at their cost, those that share one a little apart."""
    width = math.log(max(costs) / min(costs))
    groups: list[list[int]] = []
    for i in sorted(range(len(costs)), key=lambda i: costs[i]):
        if groups and costs[i] < SAME_COST * costs[groups[-1][0]]:
            groups[-1].append(i)
        else:
            groups.append([i])
    x = list(costs)
    for group in groups:
        step = width * min(ASIDE, 0.4 / len(group))
        for place, i in enumerate(sorted(group)):
            x[i] = costs[i] * math.exp(step * (place - (len(group) - 1) / 2))
    return x


def _draw_noisy(axis: Axes, level: float, text: str) -> None:
    """The noisy input as a line; where it would squeeze everything else, in words at the edge."""
    low, high = axis.get_ylim()
    distance = max(low - level, level - high, 0.0)
    if distance < 0.5 * (high - low):
        axis.axhline(level, color=GREY, linewidth=1, linestyle=":")
        place, words = level, f"noisy {text}"
    else:
        axis.set_ylim(low, high)
        place, words = (low, f"noisy {text}, below") if level < low else (high, f"noisy {text}, above")
    under = place >= high
    axis.annotate(
        words, (0.995, place), xycoords=("axes fraction", "data"), textcoords="offset points",
        xytext=(0, -3 if under else 3), fontsize=8, color=GREY, ha="right", va="top" if under else "bottom",
    )  # fmt: skip


def _write_names(axis: Axes, names: list[str], x: list[float], y: list[float], front: list[int]) -> None:
    """Names beside points, away from markers, bars, the front and what is written already; far ones with a line."""
    pixel = axis.get_figure(root=True).dpi / 72  # type: ignore[union-attr]  # (every axis is in a figure)
    to_pixels = axis.transData.transform
    centres = [(float(a), float(b)) for a, b in to_pixels(list(zip(x, y, strict=True)))]
    obstacles = [Box(*text.get_window_extent().extents) for text in axis.texts]
    texts = [axis.text(0, 0, literal(name), fontsize=8, color=INK, transform=None, zorder=5) for name in names]
    sizes = [(box.width, box.height) for box in (text.get_window_extent() for text in texts)]
    whole = Box(*axis.get_window_extent().extents)
    frame = Box(whole.left + 4 * pixel, whole.bottom + pixel, whole.right, whole.top)
    radius = 4 * pixel
    obstacles += [Box(a - radius, b - radius, a + radius, b + radius) for a, b in centres]
    for container in axis.containers:
        for bar in container.lines[2]:  # type: ignore[attr-defined]  # (all are error bars)
            (ax, ay), (bx, by) = to_pixels(bar.get_paths()[0].vertices[[0, -1]])
            obstacles.append(Box(ax - pixel, min(ay, by), bx + pixel, max(ay, by)))
    for a, b in zip(front, front[1:], strict=False):
        (left, low), (right, high) = centres[a], centres[b]
        obstacles.append(Box(left, low - pixel, right, low + pixel))
        obstacles.append(Box(right - pixel, min(low, high), right + pixel, max(low, high)))
    places = place_names(centres, sizes, obstacles, frame, gap=2 * pixel)
    for text, place, centre, size in zip(texts, places, centres, sizes, strict=True):
        text.set_position((place.left, place.bottom))
        text.set_verticalalignment("bottom")
        edge = place.nearest(*centre)
        if math.dist(edge, centre) > 1.3 * size[1]:
            ends = axis.transData.inverted().transform([centre, edge])
            axis.plot(ends[:, 0], ends[:, 1], color=GREY, linewidth=0.6, zorder=2, scalex=False, scaley=False)


def _ticks(axis: Axes) -> None:
    """Ticks as 30k and 2M, also between powers of ten where the axis spans few."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    low, high = axis.get_xlim()
    decades = math.log10(high / low)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1, 3) if decades < 5 else (1,)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", which="minor", length=0)
