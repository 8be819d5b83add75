"""From scored items to a table: means per system and SNR, improvement over the noisy input, failures counted.

Sums are exact (`math.fsum`), so no digit depends on the order of files or on how many processes scored them.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kdse.errors import UserError
from kdse.machine import spreadsheet
from kdse.machine.spreadsheet import unquoted

NOISY = "noisy"
#: Width of an SNR bucket where SNRs are drawn from a range.
BUCKET_DB = 5.0
#: More different SNRs than this are a range, whatever grid they lie on.
LISTED_SNRS = 8
#: Columns of per_file.csv before and after the metrics.
ABOUT, PIECES, FAILURES = ("set", "system", "name", "snr_db"), "pieces", "failures"


@dataclass(frozen=True)
class Row:
    """One system's scores on one item."""

    system: str  # "noisy" for the unprocessed input, else the system's label
    name: str  # the item's unique id within its set
    values: dict[str, float]  # by metric, NaN where it failed
    failures: dict[str, str] = field(default_factory=dict)  # reasons by metric
    snr_db: float = math.nan  # of the input; NaN if unknown
    group: str = ""  # which test set the item is from; sets are never averaged together
    pieces: dict[str, int] = field(default_factory=dict)  # by metric, where a value is the mean of several pieces


class Line(NamedTuple):
    """One line of the summary: a system on one SNR bucket of a set, or on "all" its items."""

    group: str
    system: str
    snr_db: float | str
    items: int
    values: dict[str, float]  # by metric, means over the items that have a value
    # means of system minus noisy over the items where both have a value: need not be the difference of two means
    improvements: dict[str, float]
    failures: dict[str, int]  # items without a value
    in_pieces: dict[str, int]  # items whose value is the mean over pieces of a long file


class Block(NamedTuple):
    """The rows of a set at one SNR bucket, or "all" of them, by system: noisy first, then as first met."""

    group: str
    snr_db: float | str
    systems: dict[str, list[Row]]


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

    Raises:
        ValueError: if a metric failed on more than ``max_failed_share`` (unless None) of a system's items in a set.
    """
    kept = once(rows)
    noisy = {(row.group, row.name): row.values for row in kept if row.system == NOISY}
    lines = [_line(block, system, noisy, metrics) for block in blocks(kept) for system in block.systems]
    failures = sorted((r.group, r.system, r.name, metric, why) for r in kept for metric, why in r.failures.items())
    summary = Summary(tuple(metrics), lines, failures)
    if max_failed_share is not None:
        check_failures(summary, max_failed_share)
    return summary


def once(rows: Iterable[Row]) -> list[Row]:
    """The rows without repeats of a (group, system, name), of which the first is kept."""
    unique: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        unique.setdefault((row.group, row.system, row.name), row)
    return list(unique.values())


def blocks(rows: Sequence[Row]) -> list[Block]:
    """Rows that are compared with each other: by set, then SNR bucket (ascending), and all rows of the set last."""
    order = sorted(dict.fromkeys(row.system for row in rows), key=lambda system: system != NOISY)
    found = []
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        buckets = snr_buckets([row.snr_db for row in members])
        names: list[float | str] = [*sorted({bucket for bucket in buckets if not math.isnan(bucket)}), "all"]
        for name in names:
            systems: dict[str, list[Row]] = {system: [] for system in order}
            for row, bucket in zip(members, buckets, strict=True):
                if name in ("all", bucket):
                    systems[row.system].append(row)
            found.append(Block(group, name, {system: held for system, held in systems.items() if held}))
    return found


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
                raise UserError(
                    f"{metric} failed on {count} of {line.items} items of {line.system!r} (more than "
                    f"{max_failed_share:.0%}), the first being {name}: {why}"
                )


def snr_buckets(snr_db: Sequence[float]) -> list[float]:
    """The bucket of every SNR: itself if SNRs come from a list, else the nearest multiple of 5 dB (our choice; halfway
    goes up). NaN stays NaN."""
    width = 0.5 if snrs_listed(snr_db) else BUCKET_DB
    return [width * math.floor(v / width + 0.5) + 0.0 if math.isfinite(v) else math.nan for v in snr_db]


def snrs_listed(snr_db: Collection[float]) -> bool:
    """Whether SNRs come from a list, not from a range or a measurement: at most eight, all on a grid of 0.5 dB.

    Eight is our choice: the DNS-2020 test set has a whole number from 0 to 20 dB in every file name, which is a range.
    """
    halves = [2 * value for value in snr_db if math.isfinite(value)]
    return all(abs(half - round(half)) < 0.02 for half in halves) and len(set(map(round, halves))) <= LISTED_SNRS


def _line(
    block: Block, system: str, noisy: Mapping[tuple[str, str], Mapping[str, float]], metrics: Sequence[str]
) -> Line:
    rows = block.systems[system]
    values, improvements, failures, in_pieces = {}, {}, {}, {}
    for metric in metrics:
        scored = [row for row in rows if not math.isnan(row.values.get(metric, math.nan))]
        gains = [r.values[metric] - noisy.get((r.group, r.name), {}).get(metric, math.nan) for r in scored]
        values[metric] = _mean([row.values[metric] for row in scored])
        improvements[metric] = _mean([gain for gain in gains if not math.isnan(gain)])
        failures[metric] = len(rows) - len(scored)
        in_pieces[metric] = sum(metric in row.pieces for row in rows)
    return Line(block.group, system, block.snr_db, len(rows), values, improvements, failures, in_pieces)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a ``per_file.csv`` of `kdse evaluate`, in the file's order.

    Raises:
        ValueError: naming the file, if it cannot be read or is another one.
    """
    rows = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            fields = list(reader.fieldnames or ())
            if fields[: len(ABOUT)] != list(ABOUT) or fields[-1] != FAILURES:
                raise UserError(f"its columns are not {', '.join(ABOUT)}, metrics, {FAILURES}")
            metrics = [name for name in fields[len(ABOUT) : -1] if name != PIECES]
            for record in reader:
                if None in record or None in record.values():
                    raise UserError(f"line {reader.line_num} has not {len(fields)} values")
                snr_db, *values = (float(record[name] or "nan") for name in ("snr_db", *metrics))
                if any(map(math.isinf, values)):
                    raise UserError(f"line {reader.line_num} has an infinite value")
                known = dict(zip(metrics, values, strict=True))
                failures, counts = (_by_metric(record, column, metrics) for column in (FAILURES, PIECES))
                pieces = {metric: int(count) for metric, count in counts.items()}
                group, system, name = (unquoted(record[key]) for key in ("set", "system", "name"))
                rows.append(Row(system, name, known, failures, snr_db, group, pieces))
    except (OSError, ValueError, TypeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: is no per_file.csv of kdse evaluate ({why})") from None
    return rows


def _by_metric(record: Mapping[str, str], column: str, metrics: Sequence[str]) -> dict[str, str]:
    """What "pesq_wb: no speech; stoi: too short" says. A reason may hold "; " but not one followed by "METRIC: "."""
    text = record.get(column, "")
    start = re.compile("(?:^|; )(" + "|".join(map(re.escape, metrics)) + "): ")
    parts = start.split(text) if metrics else [text]
    if parts[0]:
        raise UserError(f"{column} {text[:60]!r} do not begin with a metric")
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def records(summary: Summary) -> list[dict[str, Any]]:
    """The summary as flat dictionaries: set, system, snr_db ("all" or a number), items, and by metric its mean,
    ``_improvement``, ``_failed`` and, where there are any, ``_in_pieces``. Missing values are None."""
    cut = [metric for metric in summary.metrics if any(line.in_pieces[metric] for line in summary.lines)]
    table = []
    for line in summary.lines:
        record: dict[str, Any] = {"set": line.group, "system": line.system, "snr_db": line.snr_db, "items": line.items}
        for metric in summary.metrics:
            record[metric] = plain(line.values[metric])
            record[f"{metric}_improvement"] = plain(line.improvements[metric])
            record[f"{metric}_failed"] = line.failures[metric]
            if metric in cut:
                record[f"{metric}_in_pieces"] = line.in_pieces[metric]
        table.append(record)
    return table


def to_csv(table: Sequence[dict[str, Any]]) -> str:
    """Records as CSV; None is an empty cell."""
    return spreadsheet.to_csv([list(table[0]), *(record.values() for record in table)]) if table else ""


def plain(value: float) -> float | None:
    """Twelve significant digits: as exact as the items' own six decimals, and the same everywhere; None for NaN."""
    return None if math.isnan(value) else float(f"{value:.12g}")
