"""Flow of the solution procedure (FSP): how the channels of one layer go together with those of a later one.

Yim et al., "A gift from knowledge distillation", CVPR 2017, equations 1 and 2 (from memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, require_one_of
from kdse.objectives.base import Exchange, Shapes
from kdse.objectives.layerwise import Layerwise, project
from kdse.objectives.shapes import resample
from kdse.precision import exact


class FlowOfSolution(Layerwise):
    """Squared difference of the FSP matrices of teacher and student; at least two pairs.

    The matrix of an item between two layers of one network, with features ``F1 [C1, T, F]`` and ``F2 [C2, T, F]``:
    ``G[m, n] = 1 / (T F) sum_tf F1[m, t, f] F2[n, t, f]``. The loss is ``|| G_T - G_S ||_F^2``, averaged over items
    and summed over flows (``reduction="sum"``, the paper's equation with all its lambda = 1) or averaged over matrix
    entries and flows ("mean", our choice). T and F are averaged away, so the two networks may differ in them (other
    hops); the channel counts must agree, by width or by a head.

    The paper trains with this loss first and with labels afterwards (`kdse.schedule.TwoStep`). Which layers: the
    paper's two are the ends of a stage of equal spatial size. Ours come from the order of `pairs`, see `between`.

    Args:
        between: "equal" takes the flow from each tap to the next one that has its frames and frequencies in both
            networks (in a U-Net also from an encoder block to the decoder block across); "consecutive" takes it from
            each tap to the next and averages the longer axes down to the shorter (the paper max-pools; our choice).
        project: where channel counts differ, a trained 1x1 convolution brings the student's to the teacher's before
            the matrices are formed (our choice: the paper keeps them equal). With false such taps are an error.
    """

    agree = "b"

    def __init__(self, between: str = "equal", project: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_one_of("between", between, "equal", "consecutive")
        self.between, self.project = between, project

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        teacher = [teacher_shapes[t] for t, _ in self.bound_pairs]
        student = [student_shapes[s] for _, s in self.bound_pairs]
        heads = nn.ModuleDict()
        for index in sorted({i for flow in self.flows(teacher, student) for i in flow}):
            wide, narrow = teacher[index][1], student[index][1]
            if wide != narrow and self.project:
                heads[str(index)] = nn.Conv2d(narrow, wide, kernel_size=1)
            else:
                self._require_channels(index, teacher, student)
        return heads

    def loss(self, exchange: Exchange) -> Tensor:
        teacher, student = self.activations(exchange)
        return self.compare(teacher, project(exchange.heads, student))

    def terms(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        shapes = [x.shape for x in teacher], [x.shape for x in student]
        terms = []
        for i, j in self.flows(*shapes):
            for index in (i, j):
                self._require_channels(index, *shapes)
            gap = (_flow(teacher[i], teacher[j]) - _flow(student[i], student[j])).square()
            terms.append(gap.mean() if self.reduction == "mean" else gap.sum() / gap.shape[0])
        return terms

    def flows(self, teacher: Sequence[torch.Size], student: Sequence[torch.Size]) -> list[tuple[int, int]]:
        """Numbers of the pairs of taps that a flow leads from and to; none is an error."""
        count = len(teacher)
        if self.between == "consecutive":
            found = [(i, i + 1) for i in range(count - 1)]
        else:
            sizes = [(*a[2:], *b[2:]) for a, b in zip(teacher, student, strict=True)]
            later = [(i, [j for j in range(i + 1, count) if sizes[j] == sizes[i]]) for i in range(count)]
            found = [(i, j[0]) for i, j in later if j]
        if not found:
            raise UserError(
                f"objectives.{self.name}.pairs: a flow leads from one tap to a later one, and no two of the {count} "
                'pairs have equal frames and frequencies; add pairs or set between: "consecutive"'
            )
        return found

    def _require_channels(self, index: int, teacher: Sequence[torch.Size], student: Sequence[torch.Size]) -> None:
        if teacher[index][1] != student[index][1]:
            names = self.pair_names(index, len(teacher))
            raise UserError(
                f"objectives.{self.name}: teacher tap {names[0]!r} {[*teacher[index]]} and student tap {names[1]!r} "
                f"{[*student[index]]} differ in channels ([B, C, T, F]); set --objectives.{self.name}.project=true to "
                "train a 1x1 convolution on the student, or pair taps of equal width"
            )


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """``[B, C1, T1, F1]`` and ``[B, C2, T2, F2]`` of one network to ``[B, C1, C2]``."""
    frames, frequencies = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    a, b = (resample(exact(x), frames, frequencies).flatten(2) for x in (first, second))
    return a @ b.transpose(1, 2) / (frames * frequencies)
