"""Compression ratio to width: a student from the teacher's own family with 1/R of its parameters."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn

from kdse.errors import UserError
from kdse.models.base import SpeechModel

log = logging.getLogger(__name__)

#: Constructor arguments that set the width of a model: an int or a list of ints each.
Widths = dict[str, Any]

PRESET_TOLERANCE = 0.05
SEARCH_STEPS = 400
CLOSE_ENOUGH = 0.01
REFINEMENTS = 12
MAXIMUM_STEP = 8
IMPOSSIBLE = 0.25


class Budget(NamedTuple):
    """A student found for a ratio: constructor arguments, parameters, ratio reached, and how it was found."""

    init_args: dict[str, Any]
    parameters: int
    ratio: float
    source: str


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def find_widths(teacher: SpeechModel, ratio: float, tolerance: float = PRESET_TOLERANCE) -> Budget:
    """Width arguments of the family member whose parameter count is nearest to the teacher's divided by ``ratio``.

    A preset within ``tolerance`` of the target is used, the nearest if several; else widths are searched in
    proportion to the teacher's (and then moved one number at a time while that comes nearer).

    Raises:
        ValueError: if the family declares no width, or the ratio cannot be reached; it states the possible range.
    """
    cls = type(teacher)
    if not cls.width_parameters:
        raise UserError(
            f"--model.compression: {cls.__name__} declares no width_parameters; give an explicit --model.student"
        )
    total = count_parameters(teacher)
    if not ratio >= 1:
        raise UserError(f"--model.compression={ratio}: must be 1 or more (1 is a student as large as the teacher)")
    target = total / ratio
    presets = [(_count(teacher, preset), preset) for preset in cls.presets() if _allowed(teacher, preset)]
    near = [(abs(n - target), n, p) for n, p in presets if abs(n - target) <= tolerance * target]
    if near:
        _, count, preset = min(near, key=lambda entry: entry[0])
        return Budget({**teacher.init_args, **preset}, count, total / count, "preset")
    count, widths = _search(teacher, target)
    if abs(count - target) > IMPOSSIBLE * target:
        largest = total / _count(teacher, _proportional(teacher)[0])
        raise UserError(
            f"--model.compression={ratio:g}: no {cls.__name__} comes near {target:,.0f} parameters; from this teacher "
            f"of {total:,} the possible range is 1 to {largest:.1f}"
        )
    return Budget({**teacher.init_args, **widths}, count, total / count, "search")


def compress(teacher: SpeechModel, ratio: float, tolerance: float = PRESET_TOLERANCE) -> Callable[[], SpeechModel]:
    """A function that builds the student that `find_widths` finds; logs which and why."""
    budget = find_widths(teacher, ratio, tolerance)
    widths = {name: budget.init_args[name] for name in type(teacher).width_parameters}
    log.info(
        "compression %g: %s with %s, %d parameters, ratio reached %.2f (%s)",
        ratio,
        type(teacher).__name__,
        ", ".join(f"{k}={v}" for k, v in widths.items()),
        budget.parameters,
        budget.ratio,
        "preset of the family" if budget.source == "preset" else "found by search in proportion to the teacher",
    )
    return partial(type(teacher), **budget.init_args)


def _search(teacher: SpeechModel, target: float) -> tuple[int, Widths]:
    """Parameter count and widths nearest to ``target``: bisection over proportional widths, then single steps."""
    family = _proportional(teacher)
    place = bisect_left(
        family, target, hi=len(family) - 1, key=partial(_count, teacher)
    )  # the first member that is large enough
    nearby = [(_count(teacher, widths), widths) for widths in family[max(0, place - 1) : place + 1]]
    best = min(nearby, key=lambda entry: abs(entry[0] - target))
    for _ in range(REFINEMENTS):
        if abs(best[0] - target) <= CLOSE_ENOUGH * target:
            break
        near = [(_count(teacher, widths), widths) for widths in _neighbours(teacher, best[1])]
        better = min([best, *near], key=lambda entry: abs(entry[0] - target))
        if better is best:
            break
        best = better
    return best


def _proportional(teacher: SpeechModel) -> list[Widths]:
    """Widths with the teacher's proportions at many scales, from small to large, each once."""
    seen: dict[str, Widths] = {}
    for step in range(1, SEARCH_STEPS + 1):
        widths = _scaled(teacher, step / SEARCH_STEPS)
        if widths is not None:
            seen.setdefault(str(widths), widths)
    return list(seen.values())


def _neighbours(teacher: SpeechModel, widths: Widths) -> list[Widths]:
    """Allowed widths that differ from these in one number, by as little as the family allows."""
    found = []
    flat = _flat(widths)
    for place, sign in product(range(len(flat)), (1, -1)):
        for size in range(1, MAXIMUM_STEP + 1):
            candidate = _filled(widths, [*flat[:place], flat[place] + sign * size, *flat[place + 1 :]])
            if _allowed(teacher, candidate):
                found.append(candidate)
                break
    return found


def _scaled(teacher: SpeechModel, scale: float) -> Widths | None:
    """Widths times ``scale``; if the family does not allow them, the nearest allowed last width up or down."""
    own = {name: teacher.init_args[name] for name in teacher.width_parameters}
    widths = _filled(own, [max(1, round(value * scale)) for value in _flat(own)])
    for shift in (0, 1, -1, 2, -2, 3, -3, 4, 5, 6, 7, 8):
        shifted = {k: v + shift if isinstance(v, int) else [*v[:-1], v[-1] + shift] for k, v in widths.items()}
        if _allowed(teacher, shifted):
            return shifted
    return None


def _flat(widths: Widths) -> list[int]:
    """All numbers of some widths, in order."""
    return [number for value in widths.values() for number in ([value] if isinstance(value, int) else value)]


def _filled(widths: Widths, numbers: list[int]) -> Widths:
    """Widths of the same form with other numbers: the inverse of `_flat`."""
    left = iter(numbers)
    return {k: next(left) if isinstance(v, int) else [next(left) for _ in v] for k, v in widths.items()}


def _allowed(teacher: SpeechModel, widths: Widths) -> bool:
    return min(_flat(widths)) >= 1 and type(teacher).widths_allowed(widths, {**teacher.init_args, **widths})


def _count(teacher: SpeechModel, widths: Widths) -> int:
    with torch.device("meta"):
        return count_parameters(type(teacher)(**{**teacher.init_args, **widths}))
