"""Shapes of paired activations ``[B, C, T, F]``: checked with an error that helps, or brought together on purpose."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from kdse.errors import UserError

log = logging.getLogger(__name__)

AXES = ("batch", "channels", "frames", "frequencies")


def require_equal(name: str, pair: tuple[str, str], teacher: Sequence[int], student: Sequence[int], axes: str) -> None:
    """Checks that the shapes ``[B, C, T, F]`` of two activations agree on some axes, given as letters ("btf").

    Raises:
        ValueError: naming the objective, both taps, both shapes and what to do.
    """
    if len(teacher) != 4 or len(student) != 4:
        raise UserError(f"objectives.{name}: activations must be [B, C, T, F], not {[*teacher]} and {[*student]}")
    wrong = [AXES["bctf".index(axis)] for axis in axes if teacher["bctf".index(axis)] != student["bctf".index(axis)]]
    if wrong:
        raise UserError(
            f"objectives.{name}: teacher tap {pair[0]!r} {[*teacher]} and student tap {pair[1]!r} {[*student]} differ "
            f"in {' and '.join(wrong)} ([B, C, T, F]); pair taps that agree there (--objectives.{name}.pairs, `kdse "
            "taps` lists them) or use an objective that resamples or projects"
        )


def resample(x: Tensor, frames: int | None = None, frequencies: int | None = None) -> Tensor:
    """Brings ``[B, C, T, F]`` to other axis lengths: averages where an axis shrinks, interpolates where it grows.

    Frames differ between models whose hops differ; both cover the same seconds, so the axis is stretched as a whole.
    None keeps an axis.
    """
    wanted = (x.shape[2] if frames is None else frames, x.shape[3] if frequencies is None else frequencies)
    shrunk = (min(x.shape[2], wanted[0]), min(x.shape[3], wanted[1]))
    if shrunk != tuple(x.shape[2:]):
        x = F.adaptive_avg_pool2d(x, shrunk)
    if wanted != shrunk:
        x = F.interpolate(x, size=wanted, mode="bilinear", align_corners=False)
    return x


def in_step(
    teacher: Mapping[str, Tensor], student: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Taps ``[B, C, T, F]`` of both networks, without the last frame where the other network has one frame less.

    One network fills up the last partial frame and the other drops it, so at some crop lengths their frame counts
    differ by one; the frames before it belong together. A tap loses its last frame if no tap of the other network has
    its number of frames and one has one less. Larger differences stay, for objectives to refuse or to resample. The
    first time that a network's taps are cut is logged.
    """
    counts = [{x.shape[2] for x in taps.values()} for taps in (teacher, student)]
    return _cut("teacher", teacher, counts[1]), _cut("student", student, counts[0])


def _cut(side: str, taps: Mapping[str, Tensor], others: set[int]) -> dict[str, Tensor]:
    longer = {name for name, x in taps.items() if x.shape[2] not in others and x.shape[2] - 1 in others}
    if longer:
        _report(side)
    return {name: x[:, :, :-1] if name in longer else x for name, x in taps.items()}


@functools.cache
def _report(side: str) -> None:
    log.info("the %s's activations have one frame more than the other network's: the last is left out", side)
