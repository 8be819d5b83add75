"""From scored items to a table: means per system and SNR, improvement over the noisy input, failures counted.

Sums are exact (`math.fsum`), so no digit depends on the order of files or on how many processes scored them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table

NOISY = "noisy"
#: Width of an SNR bucket where SNRs are drawn from a range.
BUCKET_DB = 5.0
#: metric -> (column title, factor, decimals) in tables for people; files keep raw values.
SHOWN = {
    "si_sdr": ("SI-SDR dB", 1, 2),
    "sdr": ("SDR dB", 1, 2),
    "pesq_wb": ("PESQ wb", 1, 3),
    "pesq_nb": ("PESQ nb", 1, 3),
    "stoi": ("STOI %", 100, 2),
    "estoi": ("eSTOI %", 100, 2),
}


@dataclass(frozen=True)
class Row:
    """One system's scores on one item.

    Attributes:
        system: "noisy" for the unprocessed input, else the system's label.
        name: the item's unique id (within its set).
        values: metric to value, NaN where it failed.
        failures: metric to reason.
        snr_db: of the input; NaN if unknown.
        group: which test set the item is from; sets are never averaged together.
    """

    system: str
    name: str
    values: dict[str, float]
    failures: dict[str, str] = field(default_factory=dict)
    snr_db: float = math.nan
    group: str = ""


class Line(NamedTuple):
    """One line of the summary: a system on one SNR bucket of a set, or on "all" its items.

    values: mean over the items that have a value. improvements: mean of system minus noisy over the items where both
    have one (so it need not be the difference of two means). failures: items without a value, by metric.
    """

    group: str
    system: str
    snr_db: float | str
    items: int
    values: dict[str, float]
    improvements: dict[str, float]
    failures: dict[str, int]


@dataclass(frozen=True)
class Summary:
    """The lines of the table, and every failure as (group, system, name, metric, reason)."""

    metrics: tuple[str, ...]
    lines: list[Line]
    failures: list[tuple[str, str, str, str, str]]

    def line(self, system: str, snr_db: float | str = "all", group: str | None = None) -> Line:
        """The line of a system at an SNR (in the only set, unless one is named)."""
        for line in self.lines:
            if line.system == system and line.snr_db == snr_db and group in (None, line.group):
                return line
        raise KeyError((system, snr_db, group))


def summarize(rows: Iterable[Row], metrics: Sequence[str], max_failed_share: float | None = 0.1) -> Summary:
    """Means per set, SNR and system, in that order: sets and systems as first met (noisy first), SNRs ascending.

    A repeated (group, system, name) is counted once: distributed samplers pad with repeats.

    Args:
        rows: scored items.
        metrics: which metrics, in the order of columns.
        max_failed_share: share of failed items above which the run fails; None never fails it.

    Raises:
        ValueError: if a metric failed on more than ``max_failed_share`` of a system's items in a set.
    """
    unique: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        unique.setdefault((row.group, row.system, row.name), row)
    kept = list(unique.values())
    systems = sorted(dict.fromkeys(row.system for row in kept), key=lambda system: system != NOISY)
    noisy = {(row.group, row.name): row for row in kept if row.system == NOISY}
    lines: list[Line] = []
    for group in dict.fromkeys(row.group for row in kept):
        members = [row for row in kept if row.group == group]
        buckets = snr_buckets([row.snr_db for row in members])
        found: list[float | str] = [*sorted({b for b in buckets if not math.isnan(b)}), "all"]
        for bucket in found:
            for system in systems:
                chosen = [
                    row
                    for row, b in zip(members, buckets, strict=True)
                    if row.system == system and bucket in ("all", b)
                ]
                if chosen:
                    lines.append(_line(group, system, bucket, chosen, noisy, metrics))
    failures = sorted((r.group, r.system, r.name, metric, why) for r in kept for metric, why in r.failures.items())
    summary = Summary(tuple(metrics), lines, failures)
    if max_failed_share is not None:
        check_failures(summary, max_failed_share)
    return summary


def check_failures(summary: Summary, max_failed_share: float, systems: Sequence[str] | None = None) -> None:
    """Fails when too many items could not be scored (of these systems, or of all).

    Raises:
        ValueError: naming the system, the metric, the count and one reason.
    """
    for line in summary.lines:
        if line.snr_db != "all" or (systems is not None and line.system not in systems):
            continue
        for metric, count in line.failures.items():
            if count > max_failed_share * line.items:
                key = (line.group, line.system, metric)
                name, why = next((n, w) for g, s, n, m, w in summary.failures if (g, s, m) == key)
                raise ValueError(
                    f"{metric} failed on {count} of {line.items} items of {line.system!r} (more than "
                    f"{max_failed_share:.0%}), the first being {name}: {why}"
                )


def snr_buckets(snr_db: Sequence[float]) -> list[float]:
    """The bucket of every SNR; NaN stays NaN.

    SNRs that all lie on a grid of 0.5 dB come from a list, and each is its own bucket. Others come from a range or a
    measurement, and go to the nearest multiple of 5 dB (our choice; halfway goes up).
    """
    known = [value for value in snr_db if math.isfinite(value)]
    listed = all(abs(2 * value - round(2 * value)) < 0.02 for value in known)
    width = 0.5 if listed else BUCKET_DB
    return [width * math.floor(v / width + 0.5) + 0.0 if math.isfinite(v) else math.nan for v in snr_db]


def _line(
    group: str,
    system: str,
    bucket: float | str,
    rows: list[Row],
    noisy: dict[tuple[str, str], Row],
    metrics: Sequence[str],
) -> Line:
    values, improvements, failures = {}, {}, {}
    for metric in metrics:
        scored = [row for row in rows if not math.isnan(row.values.get(metric, math.nan))]
        values[metric] = _mean([row.values[metric] for row in scored])
        failures[metric] = len(rows) - len(scored)
        pairs = [(row, noisy.get((row.group, row.name))) for row in scored]
        gains = [row.values[metric] - base.values.get(metric, math.nan) for row, base in pairs if base is not None]
        improvements[metric] = _mean([gain for gain in gains if not math.isnan(gain)])
    return Line(group, system, bucket, len(rows), values, improvements, failures)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


# --- writers ---


def records(summary: Summary) -> list[dict[str, Any]]:
    """The summary as flat dictionaries: set, system, snr_db ("all" or a number), items, and by metric its mean,
    ``_improvement`` and ``_failed``. Missing values are None."""
    table = []
    for line in summary.lines:
        record: dict[str, Any] = {
            "set": line.group, "system": line.system, "snr_db": line.snr_db, "items": line.items
        }  # fmt: skip
        for metric in summary.metrics:
            record[metric] = _plain(line.values[metric])
            record[f"{metric}_improvement"] = _plain(line.improvements[metric])
            record[f"{metric}_failed"] = line.failures[metric]
        table.append(record)
    return table


def to_csv(table: Sequence[dict[str, Any]]) -> str:
    """Records as CSV; None is an empty cell."""
    text = io.StringIO()
    if table:
        writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return text.getvalue()


def to_markdown(summary: Summary) -> str:
    """A Markdown table for people: absolute value and improvement in one cell, rounded."""
    header, body = _cells(summary)
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * 2 + "---:|" * (len(header) - 2)]
    return "\n".join(lines + ["| " + " | ".join(cells).replace("\n", " ") + " |" for cells in body]) + "\n"


def to_rich(summary: Summary, title: str | None = None) -> Table:
    """The same table for the screen."""
    from rich.table import Table

    header, body = _cells(summary)
    table = Table(title=title)
    for column, name in enumerate(header):
        table.add_column(name, justify="left" if column < 2 else "right", no_wrap=column > 0)
    for index, cells in enumerate(body):
        last = index + 1 == len(body) or body[index + 1][0] != cells[0]
        table.add_row(*cells, end_section=last)
    return table


def _cells(summary: Summary) -> tuple[list[str], list[list[str]]]:
    failing = any(count for line in summary.lines for count in line.failures.values())
    titles = [SHOWN.get(metric, (metric, 1, 3))[0] for metric in summary.metrics]
    header = ["input SNR", "system", "items", *titles, *(["failed"] if failing else [])]
    body = []
    for line in summary.lines:
        snr = "all" if isinstance(line.snr_db, str) else f"{line.snr_db:g} dB"
        cells = [f"{line.group} {snr}".strip(), line.system, str(line.items)]
        cells += [_cell(line, metric) for metric in summary.metrics]
        if failing:
            cells.append(", ".join(f"{metric} {count}" for metric, count in line.failures.items() if count))
        body.append(cells)
    return header, body


def _cell(line: Line, metric: str) -> str:
    _, factor, decimals = SHOWN.get(metric, (metric, 1, 3))
    value, gain = line.values[metric] * factor, line.improvements[metric] * factor
    if math.isnan(value):
        return "n/a"
    text = f"{value:.{decimals}f}"
    return text if line.system == NOISY or math.isnan(gain) else f"{text} ({gain:+.{decimals}f})"


def _plain(value: float) -> float | None:
    """Twelve significant digits: as exact as the items' own six decimals, and the same on every machine."""
    return None if math.isnan(value) else float(f"{value:.12g}")
