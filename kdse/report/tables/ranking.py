"""The best system of a block, and the systems not clearly different from it or from the noisy input."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from kdse.metrics.table import NOISY, Block, Row, snr_buckets, snrs_listed
from kdse.metrics.uncertainty import clear, holm, paired_differences
from kdse.report.tables.table import shown

Items = Mapping[str, float]

#: Items an SNR needs for resampling within it.
STRATUM_ITEMS = 10


class Verdict(NamedTuple):
    """The best system, None if less than two compete, and those not clearly different from it or from noisy."""

    best: str | None
    unclear: frozenset[str]
    no_gain: frozenset[str]


class Scored(NamedTuple):
    """One metric of one block: system to item to value, without failed items; and each item's stratum, if any."""

    systems: dict[str, Items]
    higher_is_better: bool
    strata: dict[str, float] | None = None

    @classmethod
    def of(cls, block: Block, metric: str) -> Scored:
        """A metric of a block."""
        systems: dict[str, Items] = {system: items(rows, metric) for system, rows in block.systems.items()}
        return cls(systems, shown(metric).higher_is_better, _snr_strata(block))


def items(rows: Sequence[Row], metric: str) -> dict[str, float]:
    """Item to value, without those that failed."""
    return {row.name: v for row in rows if not math.isnan(v := row.values.get(metric, math.nan))}


def _snr_strata(block: Block) -> dict[str, float] | None:
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


def verdicts(columns: Sequence[Scored], exclude_from_best: Collection[str] = ()) -> list[Verdict]:
    """Judges every metric of every block by paired tests on the same items.

    P values are adjusted (Holm) for the systems of one column and block; that the best one was picked by the same items
    is not allowed for (our choice, as is usual), so a narrow lead over many systems deserves a second test set. Systems
    that do not compete for the best, such as the teacher, are still compared with it; noisy never competes.
    """
    winners = [_best(column, {*exclude_from_best, NOISY}) for column in columns]
    families: dict[tuple[int, str], list[str]] = {}  # column and what its systems are compared with
    for index, (column, best) in enumerate(zip(columns, winners, strict=True)):
        for other in (best, NOISY):
            if other is not None and other in column.systems:
                families[index, other] = [s for s, values in column.systems.items() if values and s != other]
    asked = [(columns[i], system, other) for (i, other), members in families.items() for system in members]
    pairs = [(column.systems[system], column.systems[other]) for column, system, other in asked]
    found = iter(paired_differences(pairs, strata=[column.strata for column, _, _ in asked]))
    unclear: dict[tuple[int, str | None], frozenset[str]] = {}
    for family, members in families.items():
        differences = [next(found) for _ in members]
        adjusted = holm([difference.p_value for difference in differences])
        judged = zip(members, differences, adjusted, strict=True)
        unclear[family] = frozenset(system for system, difference, p in judged if not clear(difference, p))
    nobody: frozenset[str] = frozenset()
    return [
        Verdict(best, unclear.get((i, best), nobody), unclear.get((i, NOISY), nobody)) for i, best in enumerate(winners)
    ]


def _best(column: Scored, excluded: Collection[str]) -> str | None:
    """The system with the best mean.

    Where items failed, means are over different items, and a system that fails on hard ones looks better than it is:
    the best must then also be ahead of every other on the items that both have (our choice).
    """
    sign = 1 if column.higher_is_better else -1
    competing = {s: values for s, values in column.systems.items() if s not in excluded and values}
    if len(competing) < 2:
        return None
    ranked = sorted(competing, key=lambda s: -sign * math.fsum(competing[s].values()) / len(competing[s]))

    def leads(mine: Items, theirs: Items) -> bool:
        return sign * math.fsum(mine[name] - theirs[name] for name in mine if name in theirs) >= 0

    if len({frozenset(values) for values in competing.values()}) > 1:
        return next((s for s in ranked if all(leads(competing[s], other) for other in competing.values())), ranked[0])
    return ranked[0]
