"""Tables of scores: means by set and SNR, and differences to one system, with intervals over files."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from kdse.errors import UserError
from kdse.metrics.table import NOISY, Block, Line, Row, blocks, once, summarize
from kdse.metrics.uncertainty import Interval, clear, holm, mean_intervals, paired_differences
from kdse.report.tables.ranking import Scored, Verdict, verdicts
from kdse.report.tables.table import MARK, Cell, Column, Table, metric_column, shown, variants

COVERS = "Intervals and tests cover the choice of files, not training seeds, and take files as independent."


class Scores(NamedTuple):
    """A line of the summary, the number of its block, and a cell for every metric."""

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
    found = score_cells(rows, metrics, exclude_from_best)
    names = {"set": "set", "snr_db": "input SNR", "system": "system", "items": "items"}
    columns = [Column(key, title) for key, title in names.items()]
    columns += [*map(metric_column, metrics), Column("failed", "failed"), Column("in_pieces", "in pieces")]
    body = []
    for line, _, cells in found:
        snr = line.snr_db if isinstance(line.snr_db, str) else f"{line.snr_db:g} dB"
        notes = [
            Cell.of(", ".join(f"{metric} {n}" for metric, n in counts.items() if n))
            for counts in (line.failures, line.in_pieces)
        ]
        about = (Cell.of(line.group), Cell(snr, line.snr_db), Cell.of(line.system), Cell.of(line.items))
        body.append((*about, *cells.values(), *notes))
    left_out = [system for system in dict.fromkeys(s.line.system for s in found) if system in exclude_from_best]
    caption = scores_caption([scores.cells for scores in found], metrics, left_out=left_out)
    table = Table("scores", "Scores", caption, tuple(columns), tuple(body), tuple(scores.block for scores in found))
    return table.without_empty("set", "failed", "in_pieces")


def score_cells(
    rows: Sequence[Row], metrics: Sequence[str], exclude_from_best: Collection[str] = (), intervals: bool = True
) -> list[Scores]:
    """Every system's cells in every block, with marks; in the order of `kdse.metrics.table.summarize`.

    Args:
        rows, metrics, exclude_from_best: as in `score_table`.
        intervals: show those of means over all SNRs (cells hold them in any case).
    """
    kept = once(rows)
    compared = blocks(kept)
    columns = {(number, m): Scored.of(block, m) for number, block in enumerate(compared) for m in metrics}
    judged = dict(zip(columns, verdicts(list(columns.values()), exclude_from_best), strict=True))
    values = {(*key, system): found for key, column in columns.items() for system, found in column.systems.items()}
    strata: list[list[float] | None] = []
    for (number, m, _), found in values.items():
        fixed = columns[number, m].strata
        strata.append(None if fixed is None else [fixed[name] for name in found])
    bounds = mean_intervals([list(found.values()) for found in values.values()], strata=strata)
    interval = dict(zip(values, bounds, strict=True))
    lines = iter(summarize(kept, metrics, max_failed_share=None).lines)
    scores = []
    for number, block in enumerate(compared):
        for system in block.systems:
            line = next(lines)
            with_interval = intervals and line.snr_db == "all"
            cells = {m: _cell(line, m, judged[number, m], interval[number, m, system], with_interval) for m in metrics}
            scores.append(Scores(line, number, cells))
    return scores


def _cell(line: Line, metric: str, verdict: Verdict, interval: Interval, with_interval: bool) -> Cell:
    system, look = line.system, shown(metric)
    gain = math.nan if system == NOISY else line.improvements[metric]
    return Cell.of_mean(
        interval._replace(mean=line.values[metric]),
        look.number(line.values[metric]),
        look.gain(gain, system in verdict.no_gain),
        look.interval(interval, fewer=1) if with_interval else "",
        noise=system in verdict.unclear,
        best=system == verdict.best,
    )


def difference_table(rows: Sequence[Row], metrics: Sequence[str], reference: str) -> Table:
    """Every system minus the reference on the same items of each set, with 95 % intervals and p values.

    Raises:
        UserError: if no row is from the reference.
    """
    kept = once(rows)
    known = dict.fromkeys(row.system for row in kept)
    if reference not in known:
        raise UserError(f"reference {reference!r}: no such system; there are {', '.join(known)}")
    columns = [Column("set", "set"), Column("system", f"minus {reference}"), Column("items", "items")]
    for metric in metrics:
        column = metric_column(metric)
        columns += [Column(f"{metric}_difference", column.title, column.better), Column(f"{metric}_p", "p")]
    body: list[tuple[Cell, ...]] = []
    numbers: list[int] = []
    whole = [block for block in blocks(kept) if block.snr_db == "all" and reference in block.systems]
    for number, block in enumerate(whole):
        names = {row.name for row in block.systems[reference]}
        common = {
            system: sum(row.name in names for row in members)
            for system, members in block.systems.items()
            if system != reference
        }
        cells = [_difference_cells(block, metric, reference, common) for metric in metrics]
        for system, count in common.items():
            about = (Cell.of(block.group), Cell.of(system), Cell.of(count))
            body.append((*about, *(cell for found in cells for cell in found[system])))
            numbers.append(number)
    caption = (
        f"Mean difference to {reference} on the same files [95 % bootstrap interval], and the p value of no difference "
        f"(paired sign-flip test, adjusted for the number of systems by Holm's method). {MARK} inside the noise: p is "
        f"not below 0.05, or the interval holds zero. {COVERS}{variants(metrics)}"
    )
    title = f"Differences to {reference}"
    return Table("differences", title, caption, tuple(columns), tuple(body), tuple(numbers)).without_empty("set")


def _difference_cells(
    block: Block, metric: str, reference: str, common: dict[str, int]
) -> dict[str, tuple[Cell, Cell]]:
    """System to its difference and p value."""
    column, look = Scored.of(block, metric), shown(metric)
    pairs = [(column.systems[system], column.systems[reference]) for system in common]
    found = paired_differences(pairs, strata=[column.strata] * len(pairs))
    adjusted = holm([difference.p_value for difference in found])
    cells = {}
    for (system, count), difference, p_value in zip(common.items(), found, adjusted, strict=True):
        difference_cell = Cell.of_mean(
            difference,
            look.number(difference.mean, sign=True),
            look.interval(difference, sign=True),
            f"n={difference.items}" if difference.items < count else "",  # some failed
            noise=not clear(difference, p_value),
        )
        p_text = "n/a" if math.isnan(p_value) else "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
        cells[system] = (difference_cell, Cell(p_text, None if math.isnan(p_value) else p_value))
    return cells


def scores_caption(
    cells: Iterable[Mapping[str, Cell]], metrics: Sequence[str], intervals: bool = True, left_out: Sequence[str] = ()
) -> str:
    """How to read the cells of `score_cells`; ``left_out`` are systems that do not compete for the best."""
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
