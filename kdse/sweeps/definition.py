"""A sweep file in W&B's format, read and checked: https://docs.wandb.ai/models/sweeps/sweep-config-keys."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.errors import UserError
from kdse.machine.yaml_file import read_yaml
from kdse.sweeps.hyperband import Hyperband, read_early_terminate
from kdse.sweeps.parameters import Parameter, read_parameters

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

METHODS = ("grid", "random", "bayes")
#: Keys that say what is swept, and those that only W&B's server needs.
KEYS = ("method", "metric", "parameters", "command", "early_terminate", "run_cap")
ELSEWHERE = ("name", "description", "project", "entity", "program")
METRIC = "val/si_sdr"


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    path: of the file. method: grid, random or bayes. metric: its name in the log, as ``val/si_sdr``. maximize: whether
    more of it is better. parameters: in the order of the file. command: as written, macros included. hyperband: the
    rule for stopping runs early, or None. run_cap: points at most, or None. content: the whole file, parsed.
    """

    path: Path
    method: str
    metric: str
    maximize: bool
    parameters: tuple[Parameter, ...]
    command: tuple[str, ...]
    hyperband: Hyperband | None
    run_cap: int | None
    content: Mapping[str, Any]

    def grid(self) -> Iterator[dict[str, Any]]:
        """The points of a grid by parameter name, the last parameter changing fastest; ``run_cap`` of them at most."""
        names = [parameter.name for parameter in self.parameters]
        points = itertools.product(*(parameter.listed for parameter in self.parameters))
        for values in itertools.islice(points, self.run_cap):
            yield dict(zip(names, values, strict=True))

    def points(self) -> int | None:
        """How many points there are; None if the search ends only when it is stopped."""
        return sum(1 for _ in self.grid()) if self.method == "grid" else self.run_cap

    def draw(self, trial: BaseTrial) -> dict[str, Any]:
        """The point of a trial by parameter name, drawn if the trial has none yet."""
        return {parameter.name: parameter.draw(trial) for parameter in self.parameters}

    def arguments(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point as W&B's server hands it to an agent: nested parameters as a mapping under the first name."""
        found: dict[str, Any] = {}
        for parameter in self.parameters:
            *above, last = parameter.path
            inner = found
            for name in above:
                inner = inner.setdefault(name, {})
            inner[last] = point[parameter.name]
        return found


def read_sweep(path: Path) -> Sweep:
    """Reads and checks a sweep file.

    Raises:
        ValueError: in one line, naming the file and the key.
    """
    content = read_yaml(path)
    try:
        return _sweep(path, content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _sweep(path: Path, content: Any) -> Sweep:
    if not isinstance(content, dict):
        raise UserError("is no sweep (a mapping with method, metric, parameters and command)")
    for key in content:
        if key not in (*KEYS, *ELSEWHERE):
            raise UserError(f"{key}: unknown or not supported here; there are {', '.join(KEYS)}")
    method, command, cap = (content.get(key) for key in ("method", "command", "run_cap"))
    if method not in METHODS:
        raise UserError(f"method: must be one of {', '.join(METHODS)}, not {method!r}")
    metric, maximize = _metric(content)
    if "parameters" not in content:
        raise UserError("parameters: missing")
    parameters = tuple(read_parameters(content["parameters"]))
    names = [parameter.name for parameter in parameters]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise UserError(f"parameters: {twice} is there twice")
    if method == "grid":
        parameters = tuple(parameter.as_listed() for parameter in parameters)
    if cap is not None and not (type(cap) is int and cap > 0):
        raise UserError(f"run_cap: must be a whole number above zero, not {cap!r}")
    hyperband = read_early_terminate(content.get("early_terminate"), maximize)
    if not isinstance(command, list) or not command:
        raise UserError("command: missing; give a list such as [kdse, fit, --config=base.yaml, '${args}']")
    return Sweep(path, method, metric, maximize, parameters, tuple(map(str, command)), hyperband, cap, content)


def _metric(content: Mapping[str, Any]) -> tuple[str, bool]:
    """The metric's name, and whether more of it is better."""
    example = f"such as {{name: {METRIC}, goal: maximize}}"
    metric = content.get("metric")
    if metric is None:
        if content["method"] == "bayes" or "early_terminate" in content:
            who = "method: bayes" if content["method"] == "bayes" else "early_terminate"
            raise UserError(f"metric: {who} needs one, {example}")
        return METRIC, True
    if not isinstance(metric, Mapping) or not isinstance(metric.get("name"), str):
        raise UserError(f"metric: must have a name and a goal, {example}")
    for key in metric:
        if key not in ("name", "goal"):
            raise UserError(f"metric: {key} is not supported here; there are name and goal")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"metric: goal must be minimize or maximize, not {goal!r}")
    return metric["name"], goal == "maximize"
