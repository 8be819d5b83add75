"""Shapes of paired activations ``[B, C, T, F]``: checked with an error that helps, or brought together on purpose."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from kdse.errors import UserError

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
