"""Tables of scores: means by set and SNR, and differences to one system, both with what files leave open."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from kdse.metrics.table import NOISY, Block, Line, Row, blocks, once, snr_buckets, snrs_listed, summarize
from kdse.metrics.uncertainty import Interval, clear, holm, mean_intervals, paired_differences
from kdse.report.tables.number_format import (
    count,
    items,
    metric_column,
    missing,
    p_value_cell,
    plain,
    shown,
    snr_cell,
    variants,
    word,
)
from kdse.report.tables.ranking import Items, Scored, Verdict, verdicts
from kdse.report.tables.table import MARK, Cell, Column, Table

#: Items an SNR needs for resampling within it.
STRATUM_ITEMS = 10
COVERS = "Intervals and tests cover the choice of files, not training seeds, and take files as independent."


class Scores(NamedTuple):
    """What `score_cells` found: a line of the summary, the number of its block, and a cell for every metric."""

    line: Line
    block: int
    cells: dict[str, Cell]


def score_table(rows: Sequence[Row], metrics: Sequence[str], exclude_from_best: Collection[str] = ()) -> Table:
    """Means by set, SNR and system, improvements, and the 95 % intervals of means over all SNRs.

    Args:
        rows: scored items of all systems.
        metrics: in the order of columns.
        exclude_from_best: systems that do not compete for the best, such as the teacher; the noisy input never does.
    """
    found = score_cells(rows, metrics, exclude_from_best, intervals=True)
    sets = any(scores.line.group for scores in found)
    failing = any(n for scores in found for n in scores.line.failures.values())
    columns = [Column("set", "set")] if sets else []
    columns += [Column("snr_db", "input SNR"), Column("system", "system"), Column("items", "items")]
    columns += [metric_column(metric) for metric in metrics]
    columns += [Column("failed", "failed")] if failing else []
    body = []
    for line, _, cells in found:
        row = [word(line.group)] if sets else []
        row += [snr_cell(line.snr_db), word(line.system), count(line.items), *cells.values()]
        if failing:
            row.append(word(", ".join(f"{metric} {n}" for metric, n in line.failures.items() if n)))
        body.append(tuple(row))
    numbers = tuple(scores.block for scores in found)
    left_out = [system for system in dict.fromkeys(s.line.system for s in found) if system in exclude_from_best]
    caption = scores_caption([scores.cells for scores in found], metrics, left_out=left_out)
    return Table("scores", "Scores", caption, tuple(columns), tuple(body), numbers)


def score_cells(
    rows: Sequence[Row], metrics: Sequence[str], exclude_from_best: Collection[str] = (), intervals: bool = True
) -> list[Scores]:
    """Every system's cells in every block, with marks; in the order of `kdse.metrics.table.summarize`.

    Args:
        rows: scored items.
        metrics: one cell each.
        exclude_from_best: as in `score_table`.
        intervals: show those of means over all SNRs (cells hold them in any case).
    """
    kept = once(rows)
    summary = summarize(kept, metrics, max_failed_share=None)
    compared = blocks(kept)
    columns = [_scored(block, metric) for block in compared for metric in metrics]
    judged = verdicts(columns, exclude_from_best)
    flat = [(column, values) for column in columns for values in column.systems.values()]
    strata = [[column.strata[name] for name in values] if column.strata else None for column, values in flat]
    bounds = iter(mean_intervals([list(values.values()) for _, values in flat], strata=strata))
    interval: dict[tuple[int, int, str], Interval] = {}
    for index, column in enumerate(columns):
        for system in column.systems:
            interval[(*divmod(index, len(metrics)), system)] = next(bounds)
    found = []
    lines = iter(summary.lines)
    for number, block in enumerate(compared):
        for system in block.systems:
            line = next(lines)
            cells = {
                metric: _cell(
                    line,
                    metric,
                    judged[number * len(metrics) + i],
                    interval[number, i, system],
                    intervals and line.snr_db == "all",
                )
                for i, metric in enumerate(metrics)
            }
            found.append(Scores(line, number, cells))
    return found


def difference_table(rows: Sequence[Row], metrics: Sequence[str], reference: str) -> Table:
    """Every system minus the reference on the same items of each set, with 95 % intervals and p values.

    Args:
        rows: scored items of all systems.
        metrics: two columns each: difference and p value.
        reference: the system that others are compared with.

    Raises:
        ValueError: if no row is from the reference.
    """
    kept = once(rows)
    if reference not in {row.system for row in kept}:
        raise ValueError(f"reference {reference!r}: no such system; there are {', '.join({r.system: 0 for r in kept})}")
    whole = [block for block in blocks(kept) if block.snr_db == "all" and reference in block.systems]
    sets = any(block.group for block in whole)
    columns = [Column("set", "set")] if sets else []
    columns += [Column("system", f"minus {reference}"), Column("items", "items")]
    for metric in metrics:
        column = metric_column(metric)
        columns += [Column(f"{metric}_difference", column.title, column.better), Column(f"{metric}_p", "p")]
    body: list[tuple[Cell, ...]] = []
    numbers: list[int] = []
    for number, block in enumerate(whole):
        base = block.systems[reference]
        names = {row.name for row in base}
        others = {system: members for system, members in block.systems.items() if system != reference}
        common = {system: sum(row.name in names for row in members) for system, members in others.items()}
        cells = {metric: _difference_cells(block, metric, reference, common) for metric in metrics}
        for system in others:
            row = [word(block.group)] if sets else []
            row += [word(system), count(common[system])]
            body.append((*row, *(cell for metric in metrics for cell in cells[metric][system])))
            numbers.append(number)
    caption = (
        f"Mean difference to {reference} on the same files [95 % bootstrap interval], and the p value of no difference "
        f"(paired sign-flip test, adjusted for the number of systems by Holm's method). {MARK} inside the noise: p is "
        f"not below 0.05, or the interval holds zero. {COVERS}{variants(metrics)}"
    )
    title = f"Differences to {reference}"
    return Table("differences", title, caption, tuple(columns), tuple(body), tuple(numbers))


def snr_strata(block: Block) -> dict[str, float] | None:
    """Each item's SNR where a test set fixes them: a list of SNRs, with at least 10 items at each.

    Our choice: other files at these SNRs would leave the SNRs as they are, so intervals must not include their spread.
    With less than 10 items at an SNR, drawing within it would make intervals too narrow. SNRs from a range were drawn
    with the items, and are drawn again with them.
    """
    snrs = {row.name: row.snr_db for members in block.systems.values() for row in members}
    if block.snr_db != "all" or any(map(math.isnan, snrs.values())) or not snrs_listed(snrs.values()):
        return None
    strata = dict(zip(snrs, snr_buckets(list(snrs.values())), strict=True))
    return strata if min(Counter(strata.values()).values()) >= STRATUM_ITEMS else None


def _scored(block: Block, metric: str) -> Scored:
    systems: dict[str, Items] = {system: items(members, metric) for system, members in block.systems.items()}
    return Scored(systems, shown(metric).higher_is_better, snr_strata(block))


def _cell(line: Line, metric: str, verdict: Verdict, interval: Interval, with_interval: bool) -> Cell:
    value, gain = line.values[metric], line.improvements[metric]
    if math.isnan(value):
        return missing()
    look = shown(metric)
    parts = [look.number(value)]
    if line.system != NOISY and not math.isnan(gain):
        parts.append(f"({look.number(gain, sign=True)}{MARK if line.system in verdict.no_gain else ''})")
    if with_interval:
        parts.append(look.interval(interval.low, interval.high, fewer=1))
    noise = line.system in verdict.unclear
    if noise:
        parts.append(MARK)
    return Cell(
        " ".join(part for part in parts if part),
        plain(value),
        best=line.system == verdict.best,
        noise=noise,
        low=plain(interval.low),
        high=plain(interval.high),
    )


def _difference_cells(
    block: Block, metric: str, reference: str, common: dict[str, int]
) -> dict[str, tuple[Cell, Cell]]:
    base = items(block.systems[reference], metric)
    pairs = [(items(block.systems[system], metric), base) for system in common]
    found = paired_differences(pairs, strata=[snr_strata(block)] * len(pairs))
    adjusted = holm([difference.p_value for difference in found])
    look = shown(metric)
    cells = {}
    for system, difference, p_value in zip(common, found, adjusted, strict=True):
        if not difference.items:
            cells[system] = (missing(), missing())
            continue
        noise = not clear(difference, p_value)
        parts = [
            look.number(difference.mean, sign=True),
            look.interval(difference.low, difference.high, sign=True),
            f"n={difference.items}" if difference.items < common[system] else "",  # some failed
            MARK if noise else "",
        ]
        text = " ".join(part for part in parts if part)
        low, high = plain(difference.low), plain(difference.high)
        cells[system] = (
            Cell(text, plain(difference.mean), noise=noise, low=low, high=high),
            p_value_cell(p_value),
        )
    return cells


def scores_caption(
    cells: Iterable[Mapping[str, Cell]], metrics: Sequence[str], intervals: bool = True, left_out: Sequence[str] = ()
) -> str:
    """How to read the cells of `score_cells`.

    Args:
        cells: what is shown.
        metrics: in the order of columns.
        intervals: whether some cells show theirs.
        left_out: systems that do not compete for the best.
    """
    lower = [shown(metric).title for metric in metrics if not shown(metric).higher_is_better]
    negative = f" ({', '.join(lower)}: lower is better, so an improvement is negative)" if lower else ""
    parts = [f"In round brackets the improvement over noisy, with {MARK} where it is not clear{negative}."]
    if intervals:
        parts.append("In square brackets the 95 % bootstrap interval of the mean, for all SNRs.")
    if any(cell.best for line in cells for cell in line.values()):
        among = f" (without {', '.join(left_out)})" if left_out else ""
        block = " of its block" if intervals else ""
        parts.append(f"Bold: best{block}{among}; {MARK} at the end: not clearly different from the best.")
    parts.append(
        "Clear: p < 0.05 in a paired sign-flip test on the same files (Holm-adjusted over systems), and an interval of "
        "the difference without zero" + ("; intervals of the two means may overlap all the same." if intervals else ".")
    )
    return " ".join([*parts, COVERS]) + variants(metrics)
