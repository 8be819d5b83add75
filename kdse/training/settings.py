"""What is refused of a start's settings before anything is built, and the command that goes on with a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdse.errors import UserError, require_at_least
from kdse.models.checkpoint import read_checkpoint
from kdse.run.identity import short

#: Values of --ckpt_path that Lightning looks a file up for.
KEYWORDS = ("best", "last", "hpc", "registry")
#: Counts of `kdse fit`, and the least that each may be.
LEAST = {"save_every_n_steps": 1, "example_every_n_validations": 0, "max_nonfinite_steps": 0}


def check_checkpoint(path: str | None, for_fit: bool) -> None:
    """Refuses a --ckpt_path that is no checkpoint of training."""
    if path is None or path in KEYWORDS:
        return
    if not Path(path).is_file():
        raise UserError(f"--ckpt_path {path}: no such file; a checkpoint of kdse fit is meant")
    content = read_checkpoint(path)
    needed = {"pytorch-lightning_version", *(("loops", "optimizer_states") if for_fit else ())}
    if needed - content.keys():
        raise UserError(
            f"--ckpt_path {path}: holds a model without the state of its training; give it as --model.weights={path}"
        )


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Refuses counts that mean nothing, and weights, rates and other numbers of the training that are not finite."""
    for name, least in LEAST.items():
        if settings[name] is not None:
            require_at_least(least, **{f"--{name}": settings[name]})
    for part in ("model", "objectives", "schedule"):
        for name, value in _numbers(settings.get(part), part):
            if not math.isfinite(value):
                raise UserError(f"--{short(name)}={value}: must be a finite number")


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(inner, f"{name}.{key}")


def without(words: Sequence[str], *flags: str) -> list[str]:
    """A command line without these flags and their values, written as ``--name=value`` or ``--name value``."""
    kept: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        if name not in flags:
            kept.append(word)
        elif not equals:
            next(left, None)
    return kept
