"""Which system is the best of a block, and which ones are not clearly different from it, or from the noisy input."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from kdse.metrics.table import NOISY
from kdse.metrics.uncertainty import clear, holm, paired_differences

Items = Mapping[str, float]


class Verdict(NamedTuple):
    """best: None if less than two systems compete. unclear: systems that are not clearly different from the best.
    no_gain: systems that are not clearly different from the noisy input."""

    best: str | None
    unclear: frozenset[str]
    no_gain: frozenset[str]


class Scored(NamedTuple):
    """One metric of one block: system to item to value, without failed items; and each item's stratum, if any."""

    systems: dict[str, Items]
    higher_is_better: bool
    strata: dict[str, float] | None = None


def verdicts(columns: Sequence[Scored], exclude_from_best: Collection[str] = ()) -> list[Verdict]:
    """Judges every metric of every block by paired tests on the same items.

    P values are adjusted (Holm) for the systems of one column and block; that the best one was picked by the same
    items is not allowed for (our choice, as is usual), so a narrow lead over many systems deserves a second test set.

    Args:
        columns: what is judged, each by itself.
        exclude_from_best: systems that do not compete, such as the teacher; the noisy input never does. They are still
            marked if they are not clearly different from the best.
    """
    winners = [_best(column, {*exclude_from_best, NOISY}) for column in columns]
    asked: list[tuple[int, str, str]] = []  # column, system, compared with
    for index, (column, best) in enumerate(zip(columns, winners, strict=True)):
        for other in (best, NOISY):
            if other is not None and other in column.systems:
                known = [system for system, items in column.systems.items() if items]
                asked += [(index, system, other) for system in known if system != other]
    pairs = [(columns[i].systems[a], columns[i].systems[b]) for i, a, b in asked]
    found = paired_differences(pairs, strata=[columns[i].strata for i, _, _ in asked])
    families: dict[tuple[int, str], list[int]] = {}
    for position, (index, _, other) in enumerate(asked):
        families.setdefault((index, other), []).append(position)
    unclear: dict[tuple[int, str], set[str]] = {family: set() for family in families}
    for family, members in families.items():
        for position, adjusted in zip(members, holm([found[m].p_value for m in members]), strict=True):
            if not clear(found[position], adjusted):
                unclear[family].add(asked[position][1])
    return [
        Verdict(best, frozenset(unclear.get((i, best or ""), ())), frozenset(unclear.get((i, NOISY), ())))
        for i, best in enumerate(winners)
    ]


def _best(column: Scored, excluded: Collection[str]) -> str | None:
    """The system with the best mean.

    Where items failed, means are over different items, and a system that fails on hard ones looks better than it is:
    the best must then also be ahead of every other on the items that both have (our choice).
    """
    sign = 1 if column.higher_is_better else -1
    competing = {s: items for s, items in column.systems.items() if s not in excluded and items}
    if len(competing) < 2:
        return None
    ranked = sorted(competing, key=lambda s: -sign * math.fsum(competing[s].values()) / len(competing[s]))
    everything = {name for items in competing.values() for name in items}
    if any(len(items) < len(everything) for items in competing.values()):
        for system in ranked:
            mine = competing[system]
            leads = (
                sign * math.fsum(mine[name] - theirs[name] for name in mine if name in theirs)
                for other, theirs in competing.items()
                if other != system
            )
            if all(lead >= 0 for lead in leads):
                return system
    return ranked[0]
