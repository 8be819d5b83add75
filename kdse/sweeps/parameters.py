"""One swept parameter: what W&B's sweep format says of it, as values of a grid and as draws of an optimiser.

Distributions and their rounding are those of W&B's own optimiser (its ``sweeps`` package): a quantised value is the
nearest multiple of ``q``. What Optuna has no distribution for is drawn as a quantile, and mapped to the value here.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from kdse.errors import UserError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

#: Settings of each distribution beside ``distribution``: needed ones, then others with their defaults.
_RANGE, _NORMAL, _BETA, _STEP = ("min", "max"), {"mu": 0.0, "sigma": 1.0}, {"a": 1.0, "b": 1.0}, {"q": 1.0}
DISTRIBUTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "constant": (("value",), {}),
    "categorical": (("values",), {}),
    "categorical_w_probabilities": (("values", "probabilities"), {}),
    "int_uniform": (_RANGE, {}),
    "uniform": (_RANGE, {}),
    "q_uniform": (_RANGE, _STEP),
    "log_uniform": (_RANGE, {}),
    "log_uniform_values": (_RANGE, {}),
    "q_log_uniform": (_RANGE, _STEP),
    "q_log_uniform_values": (_RANGE, _STEP),
    "inv_log_uniform": (_RANGE, {}),
    "inv_log_uniform_values": (_RANGE, {}),
    "normal": ((), _NORMAL),
    "q_normal": ((), _NORMAL | _STEP),
    "log_normal": ((), _NORMAL),
    "q_log_normal": ((), _NORMAL | _STEP),
    "beta": ((), _BETA),
    "q_beta": ((), _BETA | _STEP),
}
#: Quantiles beyond which an unbounded distribution is cut off.
TAIL = 1e-6


@dataclass(frozen=True)
class Parameter:
    """A parameter at the end of its path.

    path: names from the top of ``parameters``; more than one if it is nested. distribution: one of `DISTRIBUTIONS`.
    settings: of the distribution, complete.
    """

    path: tuple[str, ...]
    distribution: str
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The path with dots."""
        return ".".join(self.path)

    @property
    def varies(self) -> bool:
        """Whether it has more than one value."""
        return self.distribution != "constant" and len(self.settings.get("values", (0, 0))) > 1

    @property
    def listed(self) -> list[Any]:
        """The values of one that is constant or categorical; empty for one that is drawn from a scale."""
        return [self.settings["value"]] if self.distribution == "constant" else list(self.settings.get("values", []))

    def as_listed(self) -> Parameter:
        """The same for a grid: every distribution a list. Like W&B's grids, ``q_uniform`` leaves out its maximum.

        Raises:
            ValueError: if no grid can list it.
        """
        if self.distribution in ("constant", "categorical"):
            return self
        of = self.settings
        if self.distribution == "int_uniform":
            values: list[Any] = list(range(of["min"], of["max"] + 1))
        elif self.distribution == "q_uniform":
            values = [of["min"] + i * of["q"] for i in range(math.ceil((of["max"] - of["min"]) / of["q"]))]
        else:
            raise UserError(
                f"parameters: {self.name}: a grid cannot list distribution {self.distribution}; give values, or use "
                "method: random or bayes"
            )
        return Parameter(self.path, "categorical", {"values": values})

    def draw(self, trial: BaseTrial) -> Any:
        """Its value in a trial, drawn if the trial has none yet."""
        kind, of = self.distribution, self.settings
        if kind == "constant":
            return of["value"]
        if kind == "categorical":
            texts = [str(value) for value in of["values"]]
            return of["values"][texts.index(trial.suggest_categorical(self.name, texts))]
        if kind == "int_uniform":
            return trial.suggest_int(self.name, of["min"], of["max"])
        if kind == "categorical_w_probabilities":
            ends = list(accumulate(of["probabilities"]))
            place = bisect_right(ends, trial.suggest_float(self.name, 0.0, 1.0) * ends[-1])
            likely = [i for i, probability in enumerate(of["probabilities"]) if probability > 0]
            return of["values"][min(place, likely[-1])]
        if kind in ("uniform", "q_uniform"):
            value = trial.suggest_float(self.name, of["min"], of["max"])
        elif "log_uniform" in kind:
            low, high = of["min"], of["max"]
            if kind == "inv_log_uniform":
                low, high = math.exp(-high), math.exp(-low)
            elif not kind.endswith("_values"):
                low, high = math.exp(low), math.exp(high)
            value = trial.suggest_float(self.name, low, high, log=True)
        else:
            value = _quantile(kind, of, trial.suggest_float(self.name, TAIL, 1.0 - TAIL))
        # (a value in the middle goes to the even multiple, as numpy's round does)
        return round(value / of["q"]) * of["q"] if "q" in of else value


def read_parameters(content: Any, path: tuple[str, ...] = ()) -> list[Parameter]:
    """The parameters that follow ``parameters:`` in a sweep file, in its order, nested ones at their place.

    Raises:
        ValueError: naming the parameter and what is wrong.
    """
    where = ": ".join(("parameters", *path))
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{where}: must be a mapping of names to values, distributions or parameters")
    found: list[Parameter] = []
    for name, about in content.items():
        if not isinstance(name, str):
            raise UserError(f"{where}: {name!r}: a name must be a word; put it in quotes")
        if isinstance(about, Mapping) and set(about) == {"parameters"}:
            found += read_parameters(about["parameters"], (*path, name))
        else:
            found.append(_leaf((*path, name), about))
    return found


def _leaf(path: tuple[str, ...], about: Any) -> Parameter:
    where = f"parameters: {'.'.join(path)}"
    if not isinstance(about, Mapping):
        raise UserError(f"{where}: must be a mapping such as {{values: [1, 2]}} or {{value: 1}}")
    kind = about.get("distribution", _implied(about))
    if kind is None:
        raise UserError(f"{where}: needs value, values, min and max, or distribution")
    if kind == "categorical" and "probabilities" in about:
        kind = "categorical_w_probabilities"
    if kind not in DISTRIBUTIONS:
        raise UserError(f"{where}: distribution {kind!r} is unknown; use one of {', '.join(DISTRIBUTIONS)}")
    needed, defaults = DISTRIBUTIONS[kind]
    for key in about:
        if key not in ("distribution", *needed, *defaults):
            raise UserError(f"{where}: {key} does not go with distribution {kind}")
    for key in needed:
        if key not in about:
            raise UserError(f"{where}: distribution {kind} needs {key}")
    settings = {**defaults, **{key: value for key, value in about.items() if key != "distribution"}}
    _check(where, kind, settings)
    return Parameter(path, kind, settings)


def _implied(about: Mapping[str, Any]) -> str | None:
    """The distribution that W&B takes where none is named."""
    if "value" in about:
        return "constant"
    if "values" in about:
        return "categorical"
    if "min" in about and "max" in about:
        return "int_uniform" if type(about["min"]) is int and type(about["max"]) is int else "uniform"
    return None


def _check(where: str, kind: str, of: Mapping[str, Any]) -> None:
    """Raises a ValueError for the first setting of a distribution that is wrong."""
    values = of.get("values", [])
    texts = [str(value) for value in values] if isinstance(values, list) else []
    if "values" in of and not texts:
        raise UserError(f"{where}: values must be a list of one or more")
    twice = next((text for i, text in enumerate(texts) if text in texts[:i]), None)
    if twice is not None:
        raise UserError(f"{where}: values has {twice} twice")
    if _has_null([*values, of.get("value", 0)]):
        raise UserError(
            f"{where}: null is written as None by W&B's agent, which is read as a word; leave the flag out instead"
        )
    shares = of.get("probabilities", [])
    fits = isinstance(shares, list) and len(shares) == len(values) and all(_number(p) and p >= 0 for p in shares)
    if "probabilities" in of and not (fits and math.isclose(sum(shares), 1.0, abs_tol=1e-6)):
        raise UserError(f"{where}: probabilities must be as many numbers as values, zero or more, and add up to 1")
    for key in ("min", "max", "q", "mu", "sigma", "a", "b"):
        if key in of and not _number(of[key]):
            raise UserError(f"{where}: {key} must be a number, not {of[key]!r}")
        if key in ("q", "sigma", "a", "b") and not of.get(key, 1) > 0:
            raise UserError(f"{where}: {key} must be more than zero")
    if "min" not in of:
        return
    low, high = of["min"], of["max"]
    if kind == "int_uniform" and not (type(low) is int and type(high) is int):
        raise UserError(f"{where}: int_uniform needs whole numbers as min and max")
    if not low < high:
        raise UserError(f"{where}: min {low} must be less than max {high}")
    if kind.endswith("_values") and not low > 0:
        raise UserError(f"{where}: {kind} needs a min above zero (min and max are limits of the value)")
    if kind in ("log_uniform", "q_log_uniform", "inv_log_uniform") and max(abs(low), abs(high)) > 100:
        raise UserError(
            f"{where}: min and max of {kind} are exponents of e; use {kind}_values to give limits of the value"
        )


def _quantile(kind: str, of: Mapping[str, Any], share: float) -> float:
    from scipy import stats

    if kind.endswith("beta"):
        return float(stats.beta.ppf(share, of["a"], of["b"]))
    value = float(stats.norm.ppf(share, of["mu"], of["sigma"]))
    return math.exp(value) if kind.endswith("log_normal") else value


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _has_null(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_null, value.values()))
    return any(map(_has_null, value)) if isinstance(value, list) else value is None
