"""The table over training seeds: what a method gives on average, and how much of it is luck with the seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean

from kdse.errors import UserError
from kdse.metrics.table import NOISY, Block, Row, blocks, once
from kdse.metrics.uncertainty import ALPHA, OverSeeds, holm, over_seeds, seeds_p_value
from kdse.report.tables.ranking import Items, Scored, verdicts
from kdse.report.tables.table import MARK, Cell, Column, Table, metric_column, shown, variants

Groups = Mapping[str, Mapping[int, str]]


def seed_table(
    rows: Sequence[Row], metrics: Sequence[str], groups: Groups, exclude_from_best: Collection[str] = ()
) -> Table:
    """Mean and deviation over seeds of the seeds' means over all items of each set.

    A method is clearly worse than the best only if both say so (our choice): the files (as in the other tables, on
    every file's mean over seeds) and the seeds (Welch's t-test between the seeds' means). A method with one seed is
    therefore always marked: nothing is known of its spread.

    Args:
        rows, metrics, exclude_from_best: as in `score_table`, for methods.
        groups: method to seed to the label of that run in ``rows``. The noisy input is added by itself.

    Raises:
        UserError: for a label that no row has.
    """
    kept = once(rows)
    known = {row.system for row in kept}
    for method, runs in groups.items():
        for seed, system in runs.items():
            if system not in known:
                raise UserError(f"seed {seed} of {method!r}: there are no scores of {system!r}")
    columns = [Column(key, key) for key in ("set", "method", "seeds")] + [metric_column(metric) for metric in metrics]
    body: list[tuple[Cell, ...]] = []
    numbers: list[int] = []
    for number, block in enumerate(block for block in blocks(kept) if block.snr_db == "all"):
        methods = {NOISY: [NOISY], **{method: list(runs.values()) for method, runs in groups.items()}}
        present = {method: [s for s in systems if s in block.systems] for method, systems in methods.items()}
        scored = {method: systems for method, systems in present.items() if systems}
        cells = [_cells(block, metric, scored, exclude_from_best) for metric in metrics]
        for method, systems in scored.items():
            count = Cell("") if method == NOISY else Cell.of(len(systems))
            about = (Cell.of(block.group), Cell.of(method), count)
            body.append((*about, *(found[method] for found in cells)))
            numbers.append(number)
    table = Table("seeds", "Over training seeds", _caption(metrics), tuple(columns), tuple(body), tuple(numbers))
    return table.without_empty("set")


def _cells(
    block: Block, metric: str, methods: Mapping[str, list[str]], exclude_from_best: Collection[str]
) -> dict[str, Cell]:
    column, look = Scored.of(block, metric), shown(metric)
    runs = {method: [column.systems[system] for system in systems] for method, systems in methods.items()}
    means = {method: [_mean(values.values()) for values in found] for method, found in runs.items()}
    spread = {method: over_seeds(values) for method, values in means.items()}
    per_item = {method: _over_runs(found) for method, found in runs.items()}
    verdict = verdicts([Scored(per_item, column.higher_is_better, column.strata)], exclude_from_best)[0]
    unclear = verdict.unclear | (_unclear_over_seeds(means, spread, verdict.best) if verdict.best else set())
    noisy = per_item.get(NOISY, {})
    cells = {}
    for method, over in spread.items():
        # each run against noisy on the files that both have, as in the other tables
        gains = [_mean([values[name] - noisy[name] for name in values if name in noisy]) for values in runs[method]]
        cells[method] = Cell.of_mean(
            over,
            look.number(over.mean),
            "" if math.isnan(over.deviation) else f"± {look.number(over.deviation)}",
            "" if method == NOISY else look.gain(over_seeds(gains).mean, method in verdict.no_gain),
            noise=method in unclear,
            best=method == verdict.best,
        )
    return cells


def _unclear_over_seeds(means: Mapping[str, list[float]], spread: Mapping[str, OverSeeds], best: str) -> set[str]:
    """Methods that the seeds do not tell from the best."""
    others = [method for method, over in spread.items() if method != best and over.seeds]
    adjusted = holm([seeds_p_value(means[best], means[m][0] if m == NOISY else means[m]) for m in others])
    return {method for method, p_value in zip(others, adjusted, strict=True) if not p_value < ALPHA}


def _over_runs(runs: Sequence[Items]) -> Items:
    """Mean over runs of every item that all of them have."""
    common = [name for name in runs[0] if all(name in values for values in runs)]
    return {name: _mean([values[name] for values in runs]) for name in common}


def _mean(values: Collection[float]) -> float:
    return fmean(values) if values else math.nan


def _caption(metrics: Sequence[str]) -> str:
    return (
        "Mean ± sample deviation over training seeds of each seed's mean over all files; in round brackets the "
        f"improvement over noisy, with {MARK} where the files leave it unclear. Bold: best; {MARK} at the end: not "
        "clearly different from the best. Clear: p < 0.05 over files (paired sign-flip test of every file's mean over "
        "seeds) and over seeds (Welch's t-test), both Holm-adjusted. A method with one seed is always marked: its "
        "spread is unknown." + variants(metrics)
    )
