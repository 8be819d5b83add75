"""The table over training seeds: what a method gives on average, and how much of it is luck with the seed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from kdse.metrics.table import NOISY, Block, Row, blocks, once
from kdse.metrics.uncertainty import ALPHA, OverSeeds, holm, over_seeds, seeds_p_value
from kdse.report.tables.number_format import count, items, metric_column, missing, plain, shown, variants, word
from kdse.report.tables.ranking import Items, Scored, verdicts
from kdse.report.tables.scores import snr_strata
from kdse.report.tables.table import MARK, Cell, Column, Table

Groups = Mapping[str, Mapping[int | str, str]]


def seed_table(
    rows: Sequence[Row], metrics: Sequence[str], groups: Groups, exclude_from_best: Collection[str] = ()
) -> Table:
    """Mean and deviation over seeds of the seeds' means over all items of each set.

    A method is clearly worse than the best only if both say so (our choice): the files (as in the other tables, on
    every file's mean over seeds) and the seeds (Welch's t-test between the seeds' means). A method with one seed is
    therefore always marked: nothing is known of its spread.

    Args:
        rows: scored items of all systems.
        metrics: in the order of columns.
        groups: method to seed to the label of that run in ``rows``. The noisy input is added by itself.
        exclude_from_best: methods that do not compete for the best.

    Raises:
        ValueError: for a label that no row has.
    """
    kept = once(rows)
    known = {row.system for row in kept}
    for method, runs in groups.items():
        for seed, system in runs.items():
            if system not in known:
                raise ValueError(f"seed {seed} of {method!r}: there are no scores of {system!r}")
    whole = [block for block in blocks(kept) if block.snr_db == "all"]
    sets = any(block.group for block in whole)
    columns = [Column("set", "set")] if sets else []
    columns += [Column("method", "method"), Column("seeds", "seeds"), *(metric_column(metric) for metric in metrics)]
    body: list[tuple[Cell, ...]] = []
    numbers: list[int] = []
    for number, block in enumerate(whole):
        found = {NOISY: [NOISY]} if NOISY in block.systems else {}
        for method, runs in groups.items():
            if systems := [system for system in runs.values() if system in block.systems]:
                found[method] = systems
        cells = {metric: _cells(block, metric, found, exclude_from_best) for metric in metrics}
        for method, systems in found.items():
            row = [word(block.group)] if sets else []
            row += [word(method), Cell("") if method == NOISY else count(len(systems))]
            body.append((*row, *(cells[metric][method] for metric in metrics)))
            numbers.append(number)
    return Table("seeds", "Over training seeds", _caption(metrics), tuple(columns), tuple(body), tuple(numbers))


def _cells(
    block: Block, metric: str, methods: Mapping[str, list[str]], exclude_from_best: Collection[str]
) -> dict[str, Cell]:
    runs = {
        m: [items(block.systems[s], metric) for s in systems if s in block.systems] for m, systems in methods.items()
    }
    means = {m: [_mean(list(values.values())) for values in found] for m, found in runs.items()}
    spread = {method: over_seeds(values) for method, values in means.items()}
    per_item: dict[str, Items] = {method: _over_runs(found) for method, found in runs.items()}
    look = shown(metric)
    verdict = verdicts([Scored(per_item, look.higher_is_better, snr_strata(block))], exclude_from_best)[0]
    unclear = verdict.unclear | (_unclear_over_seeds(means, spread, verdict.best) if verdict.best else set())
    noisy = per_item.get(NOISY, {})
    cells = {}
    for method, over in spread.items():
        if math.isnan(over.mean):
            cells[method] = missing()
            continue
        # each run against noisy on the files that both have, as in the other tables
        gains = [_mean([values[name] - noisy[name] for name in values if name in noisy]) for values in runs[method]]
        gain = math.nan if method == NOISY else over_seeds(gains).mean
        parts = [look.number(over.mean), look.deviation(over.deviation)]
        if not math.isnan(gain):
            parts.append(f"({look.number(gain, sign=True)}{MARK if method in verdict.no_gain else ''})")
        parts.append(MARK if method in unclear else "")
        cells[method] = Cell(
            " ".join(part for part in parts if part),
            plain(over.mean),
            best=method == verdict.best,
            noise=method in unclear,
            deviation=plain(over.deviation),
        )
    return cells


def _unclear_over_seeds(means: Mapping[str, list[float]], spread: Mapping[str, OverSeeds], best: str) -> set[str]:
    """Methods that the seeds do not tell from the best."""
    others = [method for method, over in spread.items() if method != best and over.seeds]
    p_values = [seeds_p_value(means[best], means[m][0] if m == NOISY else means[m]) for m in others]
    adjusted = holm(p_values)
    return {method for method, p_value in zip(others, adjusted, strict=True) if not p_value < ALPHA}


def _over_runs(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over runs of every item that all of them have."""
    common = [name for name in runs[0] if all(name in values for values in runs)] if runs else []
    return {name: _mean([values[name] for values in runs]) for name in common}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _caption(metrics: Sequence[str]) -> str:
    return (
        "Mean ± sample deviation over training seeds of each seed's mean over all files; in round brackets the "
        f"improvement over noisy, with {MARK} where the files leave it unclear. Bold: best; {MARK} at the end: not "
        "clearly different from the best. Clear: p < 0.05 over files (paired sign-flip test of every file's mean over "
        "seeds) and over seeds (Welch's t-test), both Holm-adjusted. A method with one seed is always marked: its "
        "spread is unknown." + variants(metrics)
    )
