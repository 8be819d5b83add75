"""Improvement over the noisy input against input SNR: where a system helps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdse.metrics.table import NOISY, Block, Row, blocks, once
from kdse.metrics.uncertainty import Interval, mean_interval
from kdse.report.contents import Figure, file_name
from kdse.report.figures.drawing import GREY, WIDTH, canvas, legend_below, literal, looks, means, plain, to_png
from kdse.report.tables.ranking import items
from kdse.report.tables.table import shown

#: (metric, system, SNR) to mean improvement in raw units.
Gains = dict[tuple[str, str, float], Interval]
#: Panels side by side.
ACROSS = 3
#: With more systems than this, intervals would hide the lines: they are left out and the alt text says so.
MANY = 10


def improvement_by_snr(
    rows: Sequence[Row], metrics: Sequence[str], systems: Sequence[str] | None = None
) -> list[Figure]:
    """Mean improvement over the noisy input against input SNR with 95 % bootstrap intervals: one figure a test set.

    One panel a metric, one line a system, over the items where both have a value. Sets with fewer than two SNRs, and
    metrics without values, are left out.

    Args:
        rows, metrics: scored items, the noisy input among them, and what to draw of them.
        systems: all systems of the report, which decides colours and order; None means those of ``rows``.
    """
    order = list(systems or dict.fromkeys(row.system for row in rows))
    figures = []
    compared = blocks(once(rows))
    for group in dict.fromkeys(row.group for row in rows):
        gains = _gains([block for block in compared if block.group == group], metrics)
        if len({snr for _, _, snr in gains}) > 1:
            figures.append(_draw(group, gains, [m for m in metrics if any(k[0] == m for k in gains)], order))
    return figures


def _gains(compared: Sequence[Block], metrics: Sequence[str]) -> Gains:
    found: Gains = {}
    for _, snr, systems in compared:
        if isinstance(snr, str):  # "all"
            continue
        for metric in metrics:
            noisy = items(systems.get(NOISY, []), metric)
            for system, rows in systems.items():
                gains = [value - noisy[name] for name, value in items(rows, metric).items() if name in noisy]
                if gains and system != NOISY:
                    found[metric, system, snr] = mean_interval(gains)
    return found


def _draw(group: str, gains: Gains, metrics: list[str], order: list[str]) -> Figure:
    names = [name for name in order if any(system == name for _, system, _ in gains)]
    down, across = math.ceil(len(metrics) / ACROSS), min(ACROSS, len(metrics))
    look = looks(order)
    snrs = sorted({snr for _, _, snr in gains})
    few = len(names) <= MANY
    step = min(b - a for a, b in zip(snrs, snrs[1:], strict=False))
    spread = step * min(0.3, 0.06 * len(names)) if few else 0.0  # so that intervals do not hide each other
    figure = canvas(height=0.35 + 0.2 * math.ceil(len(names) / 4) + 2.6 * down, width=WIDTH if across > 1 else 5.0)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel, metric in zip(panels, metrics, strict=False):
        for place, name in enumerate(names):
            aside = spread * ((place + 0.5) / len(names) - 0.5)
            points = {snr + aside: gains[metric, name, snr] for snr in snrs if (metric, name, snr) in gains}
            means(
                panel, list(points), list(points.values()), shown(metric).factor, look[name], few,
                markersize=4.5 if few else 4, linewidth=1.3 if few else 1, elinewidth=0.9, label=literal(name),
            )  # fmt: skip
        panel.axhline(0.0, color=GREY, linewidth=1)
        panel.set_xticks(snrs, [f"{snr:g}" for snr in snrs])
        panel.set_xlabel("input SNR (dB)")
        panel.set_title(shown(metric).axis_title)
        plain(panel, grid="y")
    rising = all(shown(metric).higher_is_better for metric in metrics)
    for panel in panels[: len(metrics) : across]:
        panel.set_ylabel("improvement over noisy" if rising else "change from noisy")
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    legend_below(figure, panels[0])
    return Figure(
        key=file_name(f"improvement_by_snr_{group}"),
        title="Improvement over the noisy input by input SNR" + (f", {group}" if group else ""),
        alt=_alt(gains, metrics, names, snrs),
        png=to_png(figure),
    )


def _alt(gains: Gains, metrics: list[str], names: list[str], snrs: list[float]) -> str:
    parts = []
    for metric in metrics:
        each = []
        for name in names:
            ends = {snr: gains[metric, name, snr].mean for snr in (snrs[0], snrs[-1]) if (metric, name, snr) in gains}
            if ends:
                found = (f"{shown(metric).number(gain, sign=True)} at {snr:g} dB" for snr, gain in ends.items())
                each.append(f"{name} {' and '.join(found)}")
        parts.append(f"{shown(metric).title}: {', '.join(each)}")
    items = [interval.items for interval in gains.values()]
    count = f"{min(items)}" if min(items) == max(items) else f"{min(items)} to {max(items)}"
    few = len(names) <= MANY
    intervals = "with 95 % intervals" if few else f"without intervals ({len(names)} systems are too many),"
    return f"Mean improvement over the noisy input {intervals} over {count} files at each SNR. {'. '.join(parts)}."
