"""SemCKD: every student layer learns from every teacher layer, as much as a learned affinity says.

Semantic Calibration for Cross-layer Knowledge Distillation (Chen et al., AAAI 2021). Structure after the authors'
code (DefangChen/SemCKD, ``models/util.py`` and ``distiller_zoo/SemCKD.py``); the paper itself was not read. The
attention weights *losses*, where `AttentionCompression` weights features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.distributed import world_size
from kdse.errors import UserError, require_at_least, require_positive
from kdse.objectives.base import Gathering, Shapes
from kdse.objectives.compression import ManyToMany, split_pairs
from kdse.objectives.shapes import resample
from kdse.objectives.vectors import perceptron
from kdse.precision import exact, full_precision


class FixedBatch(Gathering):
    """Base of objectives whose heads see a batch through its similarities, so that its size is a width of theirs.

    Args:
        batch_size: items that are compared with each other: the data's batch size, times the number of processes if
            ``gather`` is on. The default is that of `kdse.data.Mixtures` in one process.
        scale_similarity: divide similarities by the number of products they sum (our choice: it keeps what goes into
            the perceptrons near one); false leaves them raw, as the authors do.
    """

    def __init__(self, batch_size: int = 16, scale_similarity: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_at_least(2, batch_size=batch_size)
        self.batch_size, self.scale_similarity = batch_size, scale_similarity

    def require_batch(self, activations: Sequence[Tensor]) -> None:
        """Raises a ValueError that names the flag unless activations ``[B, ...]`` have the number of items."""
        wrong = sorted({x.shape[0] for x in activations} - {self.batch_size})
        if not wrong:
            return
        world = world_size() if self.gather else 1
        made_of = f" ({world} processes together, since gather is on)" if world > 1 else ""
        raise UserError(
            f"objectives.{self.name}: its heads are built for batches of {self.batch_size} items and this one has "
            f"{wrong[0]}{made_of}; set --objectives.{self.name}.batch_size={wrong[0]} and keep every batch full "
            "(drop_last)"
        )


class SemanticCalibration(FixedBatch, ManyToMany):
    """Attention-weighted mean squared errors between regressed student layers and teacher layers.

    For every layer the batch similarities ``A A^T`` (``[b, b]``) of the whole activation; row n of them, through a
    two-layer perceptron (b -> 2 b/4 -> b/4) of the layer's own and normalised to unit length, is the query of a
    student layer or the key of a teacher layer for item n. With ``a[n, s, t] = softmax_t <query_s, key_t>``:

    ``1 / (b n_S) sum_{n, s, t} a[n, s, t] mean (R_st(student layer s) - teacher layer t)^2``

    R_st is 1x1, 3x3, 1x1 convolutions with batch norm and ReLU between. Both features are first averaged to the
    smaller frame count and the smaller frequency count of the two. The teacher carries no gradient; the student gets
    one through regressors and queries, as in the authors' code (their factor on the term is 400).

    A layer sees the batch through its perceptron, so the batch size is a width of the heads: batches must all have
    ``batch_size`` items. Regressors are many and large beside a tiny student (n_S x n_T of them, each 36 C_T^2
    weights and more): for the default CRUSE pair the encoder alone has 9.0 million and takes 8 s forward and backward
    on one core at 8 x 2 s. On a CPU compare few layers or lower ``expansion``.

    Args:
        factor: the embedding has batch_size / factor entries (4 in the authors' code).
        expansion: hidden channels of a regressor over the teacher layer's channels (2 in the authors' code).
    """

    def __init__(self, factor: int = 4, expansion: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_positive(expansion=expansion)
        if not 1 <= factor <= self.batch_size:
            raise UserError(f"factor={factor}: must be from 1 to batch_size={self.batch_size}")
        self.factor, self.expansion = factor, expansion

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        teachers, students, sees = split_pairs(self.bound_pairs)
        affinity = BatchAffinity(len(teachers), len(students), sees, self.batch_size, self.batch_size // self.factor)
        regressors = nn.ModuleDict()
        for s, student in enumerate(students):
            for t in sees[s]:
                channels = teacher_shapes[teachers[t]][1]
                hidden = max(1, round(self.expansion * channels))
                regressors[f"{s}_{t}"] = _regressor(student_shapes[student][1], hidden, channels)
        return nn.ModuleDict({"affinity": affinity, "regressors": regressors})

    def compare(self, teacher: list[Tensor], student: list[Tensor], heads: nn.ModuleDict) -> Tensor:
        affinity, regressors = heads["affinity"], heads["regressors"]
        assert isinstance(affinity, BatchAffinity) and isinstance(regressors, nn.ModuleDict)
        self.require_batch([*teacher, *student])
        with full_precision(student[0].device):
            teacher, student = [exact(x.detach()) for x in teacher], [exact(x) for x in student]
            weights = affinity(
                [_similarity(x, self.scale_similarity) for x in teacher],
                [_similarity(x, self.scale_similarity) for x in student],
            )
            total = weights[0].new_zeros(())
            for s, x in enumerate(student):
                for n, t in enumerate(affinity.sees[s]):
                    size = [min(a, b) for a, b in zip(x.shape[2:], teacher[t].shape[2:], strict=True)]
                    gap = regressors[f"{s}_{t}"](resample(x, *size)) - resample(teacher[t], *size)
                    total = total + (weights[s][:, n] * gap.square().mean((1, 2, 3))).mean()
            return total / len(student)


class BatchAffinity(nn.Module):
    """Attention of student to teacher layers from their batch similarities; see `SemanticCalibration`."""

    def __init__(self, teachers: int, students: int, sees: Sequence[Sequence[int]], batch: int, entries: int) -> None:
        super().__init__()
        self.sees = [list(seen) for seen in sees]
        self.keys = nn.ModuleList(perceptron(batch, 2 * entries, entries) for _ in range(teachers))
        self.queries = nn.ModuleList(perceptron(batch, 2 * entries, entries) for _ in range(students))

    def forward(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        """Similarities ``[b, b]`` to weights ``[b, n]`` over the n teacher layers each student layer sees."""
        keys = [F.normalize(key(x), dim=-1) for key, x in zip(self.keys, teacher, strict=True)]
        queries = [F.normalize(query(x), dim=-1) for query, x in zip(self.queries, student, strict=True)]
        return [
            torch.stack([(query * keys[t]).sum(-1) for t in seen], dim=-1).softmax(-1)
            for query, seen in zip(queries, self.sees, strict=True)
        ]


def _similarity(x: Tensor, scale: bool) -> Tensor:
    """``[B, C, T, F]`` to the batch similarities ``[B, B]`` of whole activations."""
    rows = x.flatten(1)
    gram = rows @ rows.t()
    return gram / rows.shape[1] if scale else gram


def _regressor(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 1, bias=False),
    )
