"""Early termination as W&B's sweeps do it, after Hyperband (Li et al., arXiv 1603.06560): a pure function of histories.

An iteration is one logged value of the metric. At every bracket (an iteration number) a run is compared with all runs
that got there: it goes on if it is among the best 1/eta of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdse.errors import UserError

KEYS = ("type", "min_iter", "max_iter", "s", "eta", "strict")
#: Brackets of a rule that names the first one only: W&B's count, up to an iteration that no run gets to.
COUNT = 100
MANY = 1e12


@dataclass(frozen=True)
class Hyperband:
    """The rule of one sweep.

    brackets: iterations at which runs are compared, ascending. eta: 1/eta of the runs go on. strict: compare the value
    at the bracket, not the best one so far. maximize: whether more is better.
    """

    brackets: tuple[int, ...]
    eta: float
    strict: bool
    maximize: bool

    def stops(self, history: Sequence[float], histories: Sequence[Sequence[float]]) -> bool:
        """Whether a run is to be stopped.

        Args:
            history: its values of the metric, in order.
            histories: those of all runs, itself and finished ones among them.
        """
        reached = [bracket for bracket in self.brackets if bracket <= len(history)]
        if not reached:
            return False
        costs = [-value if self.maximize else value for value in history]
        last = reached[-1] - 1
        others = sorted(-h[last] if self.maximize else h[last] for h in histories if len(h) > last)
        return (costs[last] if self.strict else min(costs)) > others[int(len(others) * (1.0 / self.eta))]


def read_early_terminate(content: Any, maximize: bool) -> Hyperband | None:
    """The rule that a sweep file's ``early_terminate`` names; None for none.

    Raises:
        ValueError: naming the key.
    """
    if content is None:
        return None
    if not isinstance(content, Mapping) or content.get("type") != "hyperband":
        raise UserError("early_terminate: type must be hyperband, the only rule there is")
    for key in content:
        if key not in KEYS:
            raise UserError(f"early_terminate: {key} is unknown; there are {', '.join(KEYS)}")
    eta = _positive(content, "eta", 3)
    if eta <= 1:
        raise UserError("early_terminate: eta must be more than 1: 1/eta of the runs go on")
    strict = content.get("strict", True)  # (off by W&B's documentation; on in its code, which this follows)
    if not isinstance(strict, bool):
        raise UserError("early_terminate: strict must be true or false")
    if "min_iter" in content and "max_iter" not in content:
        if "s" in content:
            raise UserError("early_terminate: s goes with max_iter")
        first = _positive(content, "min_iter")
        if first < 1:
            raise UserError("early_terminate: min_iter must be at least 1")
        brackets = [int(first * eta**i) for i in range(COUNT) if first * eta**i < MANY]
    elif "max_iter" in content and "s" in content and "min_iter" not in content:
        last, count = _positive(content, "max_iter"), int(_positive(content, "s"))
        shares = [last := last / eta for _ in range(count)]
        brackets = sorted(int(share) for share in shares if share >= 1)
        if not brackets:
            raise UserError("early_terminate: max_iter / eta is less than one iteration; raise max_iter or lower eta")
    else:
        raise UserError("early_terminate: give min_iter, or max_iter and s")
    return Hyperband(tuple(brackets), eta, strict, maximize)


def _positive(content: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = content.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UserError(f"early_terminate: {key} must be a number above zero, not {value!r}")
    return value
