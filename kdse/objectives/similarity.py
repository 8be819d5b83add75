"""Similarity preserving: teacher and student agree on which items of a batch look alike, not on features themselves.

The channel (or larger) axis is contracted away in a Gram matrix over the batch, so networks of different width
compare without projectors. Per-bin Grams are the proposal of Two-Step KD (arXiv 2309.08144, equations 1 and 2);
one Gram over everything is Tung & Mori (ICCV 2019).
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from kdse.errors import UserError, require_one_of
from kdse.objectives.base import Gathering
from kdse.objectives.layerwise import Layerwise
from kdse.precision import exact


class SimilarityPreserving(Gathering, Layerwise):
    """Squared difference of batch Gram matrices of teacher and student.

    Local form, per layer i: ``(1 / b^2) || G_T^i - G_S^i ||_F^2`` summed (``reduction="sum"``, the paper's equation 1
    as printed). "mean" averages over bins, frames and layers and divides each raw Gram by the number of values it
    contracts (our choice: the raw sum is of order 1e6 and makes gamma and clipping meaningless). Flow form, per pair
    of layers i < j: the same of ``G^i (G^j)^T`` per frame (equation 2).

    Args:
        over: axes that get a Gram of their own: [] one Gram for the whole activation (G), ["time"] one a frame
            (G_t), ["frequency"] one a frequency (G_f), ["time", "frequency"] one a bin (G_tf, the paper's proposal).
        normalize: None leaves Grams raw (the paper's equation); "row" divides each row by its L2 norm (Tung & Mori);
            "frobenius" divides each Gram by its Frobenius norm.
        flow: compare products of Grams of two layers instead of Grams of one.
    """

    def __init__(
        self,
        over: list[str] = ["time", "frequency"],  # noqa: B006 (jsonargparse shows it in --help)
        normalize: str | None = None,
        flow: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not set(over) <= {"time", "frequency"} or len(set(over)) != len(over):
            raise UserError(f'over={over}: use any of "time" and "frequency", each once')
        require_one_of("normalize", normalize, None, "row", "frobenius")
        if flow and "time" not in over:
            raise UserError(f'over={over}: the flow form is defined per frame; add "time"')
        self.over = tuple(sorted(over, reverse=True))
        self.normalize, self.flow = normalize, flow
        self.agree = "b" + "".join(axis[0] for axis in self.over)

    def terms(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        return self._flow_terms(teacher, student) if self.flow else super().terms(teacher, student)

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        rows_t, rows_s = self._rows(teacher), self._rows(student)
        count, batch = rows_s.shape[0], rows_s.shape[1]
        if self.normalize is None:
            gap = _GramGap.apply(rows_t, rows_s, self._scale(rows_t), self._scale(rows_s))
        else:
            gap = (self._gram(teacher) - self._gram(student)).square().sum()
        gap = gap / batch**2
        return gap if self.reduction == "sum" else gap / count

    def _flow_terms(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        frames = {x.shape[2] for x in teacher}
        if len(frames) > 1:
            raise UserError(f"objectives.{self.name}: the flow form needs one frame count, the taps have {frames}")
        if len(teacher) < 2:
            raise UserError(f"objectives.{self.name}: the flow form needs at least two pairs of taps")
        grams_t, grams_s = [self._flow_gram(x) for x in teacher], [self._flow_gram(x) for x in student]
        terms = []
        for i, j in combinations(range(len(teacher)), 2):
            a, b = _flow(grams_t[i], grams_t[j]), _flow(grams_s[i], grams_s[j])
            gap = (a - b).square().sum() / teacher[i].shape[0] ** 2
            size = a.shape[0] * (a.shape[2] * a.shape[3] if a.dim() == 4 else 1)  # frames, times pairs of bins
            terms.append(gap if self.reduction == "sum" else gap / gap.new_tensor(size))
        return terms

    def _flow_gram(self, x: Tensor) -> Tensor:
        """``[T, B, B]`` per frame, or ``[T, F, B, B]`` per bin."""
        gram = self._gram(x)
        return gram if len(self.over) == 1 else gram.unflatten(0, (x.shape[2], x.shape[3]))

    def _gram(self, x: Tensor) -> Tensor:
        """Normalised and scaled Grams ``[P, B, B]``."""
        if self.normalize is not None and len(x) < 2:
            raise UserError(
                f"objectives.{self.name}: a normalised Gram of one item is 1 whatever the network does; give "
                "--data.batch_size 2 or more, or normalize: null"
            )
        rows = self._rows(x)
        gram = _products(rows)
        if self.normalize == "row":
            return gram / gram.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        if self.normalize == "frobenius":
            return gram / gram.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-12)
        return gram * self._scale(rows)

    def _scale(self, rows: Tensor) -> float:
        return 1.0 / rows.shape[-1] if self.reduction == "mean" else 1.0

    def _rows(self, x: Tensor) -> Tensor:
        """``[B, C, T, F]`` to contiguous ``[P, B, K]``: P Grams, each contracting K values."""
        x = exact(x)
        if self.over == ("time", "frequency"):
            return x.permute(2, 3, 0, 1).reshape(-1, x.shape[0], x.shape[1])
        if self.over == ("time",):
            return x.permute(2, 0, 1, 3).reshape(x.shape[2], x.shape[0], -1)
        if self.over == ("frequency",):
            return x.permute(3, 0, 1, 2).reshape(x.shape[3], x.shape[0], -1)
        return x.reshape(1, x.shape[0], -1)


def _products(rows: Tensor) -> Tensor:
    """Grams ``[P, B, B]`` of ``[P, B, K]``."""
    other = rows.transpose(1, 2)
    return rows * other if rows.shape[-1] == 1 else rows @ other  # (BLAS takes nine times as long for one value)


def _flow(a: Tensor, b: Tensor) -> Tensor:
    """Flow between the Grams of two layers: ``[T, B, B]`` per frame, or ``[T, B, F_i, F_j]`` per bin."""
    if a.dim() == 3:
        return a @ b.transpose(1, 2)
    return a.permute(0, 2, 1, 3) @ b.permute(0, 2, 3, 1)


class _GramGap(torch.autograd.Function):
    """``sum || s_T A_T A_T' - s_S A_S A_S' ||^2`` over ``[P, B, K]``, with the gradient written out.

    The difference of Grams D is formed directly (no trace identity: that cancels on a nearly converged pair), and
    dD^2/dA_S = -4 s_S D A_S needs one product where autograd would take two.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, a: Tensor, b: Tensor, sa: float, sb: float) -> Tensor:
        gap = _products(a).mul_(sa).sub_(_products(b).mul_(sb))
        ctx.save_for_backward(gap, b)
        ctx.scale = sb  # type: ignore[attr-defined]  # (a context takes any)
        return gap.square().sum()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gap, b = ctx.saved_tensors  # type: ignore[attr-defined]  # (torch adds it)
        scale: float = ctx.scale  # type: ignore[attr-defined]  # (a context takes any)
        return None, torch.bmm(gap, b).mul_(-4.0 * scale * grads[0]), None, None
