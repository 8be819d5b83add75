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

    def thresholds(self, histories: Sequence[Sequence[float]]) -> list[float]:
        """What a run must not be worse than at each bracket, given the metric's values of all runs; infinite where no
        run has got to (of the metric's sign: minus infinity to maximise)."""
        found = []
        for bracket in self.brackets:
            values = sorted(self._cost(h[bracket - 1]) for h in histories if len(h) >= bracket)
            cost = values[int(len(values) * (1.0 / self.eta))] if values else math.inf
            found.append(self._cost(cost))
        return found

    def stops(self, history: Sequence[float], histories: Sequence[Sequence[float]]) -> bool:
        """Whether a run is to be stopped.

        Args:
            history: its values of the metric, in order.
            histories: those of all runs, itself and finished ones among them.
        """
        reached = [i for i, bracket in enumerate(self.brackets) if bracket <= len(history)]
        if not reached:
            return False
        threshold = self._cost(self.thresholds(histories)[reached[-1]])
        costs = [self._cost(value) for value in history]
        return (costs[self.brackets[reached[-1]] - 1] if self.strict else min(costs)) > threshold

    def _cost(self, value: float) -> float:
        return -value if self.maximize else value


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
    if not isinstance(content.get("strict", True), bool):
        raise UserError("early_terminate: strict must be true or false")
    if "max_iter" in content:
        if "min_iter" in content or "s" not in content:
            raise UserError("early_terminate: give min_iter, or max_iter and s")
        brackets, bracket = [], _positive(content, "max_iter")
        for _ in range(int(_positive(content, "s"))):
            bracket /= eta
            if bracket < 1:
                break
            brackets.append(int(bracket))
        brackets.sort()
        if not brackets:
            raise UserError("early_terminate: max_iter / eta is less than one iteration; raise max_iter or lower eta")
    elif "min_iter" in content:
        if "s" in content:
            raise UserError("early_terminate: s goes with max_iter")
        first = _positive(content, "min_iter")
        if first < 1:
            raise UserError("early_terminate: min_iter must be at least 1")
        brackets = [int(first * eta**i) for i in range(COUNT) if first * eta**i < MANY]
    else:
        raise UserError("early_terminate: give min_iter, or max_iter and s")
    # (W&B's documentation says that strict is off by default; in its code, which this follows, it is on)
    return Hyperband(tuple(brackets), eta, content.get("strict", True), maximize)


def _positive(content: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = content.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UserError(f"early_terminate: {key} must be a number above zero, not {value!r}")
    return value
