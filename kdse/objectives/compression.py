"""Attention over teacher layers: every student layer follows a weighted compression of many teacher layers.

After ABC-KD (Wan et al., Interspeech 2023, arXiv 2305.16665), of which only the abstract was seen: "attention-based
compression" is our reading of the name, every equation below is ours, and results are not results of ABC-KD. The
closest published relative whose mechanism is known is ALP-KD (Passban 2020), where attention also fuses all teacher
layers into one target for each student layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least, require_one_of, require_positive
from kdse.objectives.base import Activations, Exchange, Objective, Shapes
from kdse.objectives.shapes import resample
from kdse.objectives.vectors import FLOOR, frame_vectors, soft_unit
from kdse.precision import exact, full_precision


class ManyToMany(Objective):
    """Base of objectives in which every student layer meets many teacher layers, each layer given once.

    Subclasses implement `build_heads` and `compare`.

    Args:
        pairs: which teacher layers each student layer meets: "all" means every one, "encoder", "bottleneck",
            "decoder" every one of the group, or a list of [teacher_tap, student_tap].
    """

    every_pair = True

    def __init__(self, pairs: str | list[list[str]] = "all", **kwargs: Any) -> None:
        super().__init__(pairs=pairs, **kwargs)

    def loss(self, exchange: Exchange) -> Tensor:
        return self.compare(*self.activations(exchange), exchange.heads)

    def activations(self, exchange: Exchange) -> Activations:
        teachers, students, _ = split_pairs(self.bound_pairs)
        return [exchange.teacher_taps[t] for t in teachers], [exchange.student_taps[s] for s in students]

    def compare(self, teacher: list[Tensor], student: list[Tensor], heads: nn.ModuleDict) -> Tensor:
        """The bare equation: all teacher layers and all student layers, each ``[B, C, T, F]`` and each once, in the
        order of the heads.

        Raises:
            ValueError: if the layers do not fit the heads.
        """
        raise NotImplementedError


class AttentionCompression(ManyToMany):
    """After ABC-KD: distance of each student layer to an attention-weighted mixture of teacher layers ("ABC-style").

    With student layer j, teacher layer i, and features ``[B, C, T, F]``:

    - value ``V_ij``: teacher layer i, each channel standardised over time and frequency per item, projected by a 1x1
      convolution to ``width`` channels, averaged or interpolated to the student layer's frames and frequencies;
    - weights ``a_ij = softmax_i(cos(q_j, k_i) / temperature)``, q_j and k_i linear in the layers' channel means;
    - target ``C_j = sum_i a_ij V_ij``; loss ``mean_j distance(P_j(student layer j), C_j)``, P_j a trained 1x1
      convolution to ``width`` channels.

    If the value projections followed this loss, a constant target and a constant student would solve it. ``guard``
    decides how they are kept from it; guarded values are standardised again after projecting, so that the weights
    gain nothing from picking the layer with the smallest variance. What is left is averaging: a mixture of n
    uncorrelated layers still has 1/n of their variance.

    Args:
        guard: "fixed" freezes the value projections at random orthogonal matrices from the run's seed; "reconstruct"
            trains them, but only to rebuild the teacher layer they compress (an autoencoder with a linear decoder
            whose squared error is added to the loss); null trains them with the distance itself, which allows the
            collapse (for ablations).
        distance: "mse", or "cosine" between frames (all channels and frequencies of a frame are one vector).
        query: "pooled", one set of weights for each item, or "frame", one for each frame.
        temperature: divides the cosines; smaller is closer to picking one teacher layer.
        width: channels of the compressed features.
        dimensions: length of queries and keys.
    """

    def __init__(
        self,
        guard: str | None = "fixed",
        distance: str = "mse",
        query: str = "pooled",
        temperature: float = 0.1,
        width: int = 16,
        dimensions: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_one_of("guard", guard, "fixed", "reconstruct", None)
        require_one_of("distance", distance, "mse", "cosine")
        require_one_of("query", query, "pooled", "frame")
        require_positive(temperature=temperature)
        require_at_least(1, width=width, dimensions=dimensions)
        self.guard, self.distance, self.query = guard, distance, query
        self.temperature, self.width, self.dimensions = temperature, width, dimensions

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        teachers, students, sees = split_pairs(self.bound_pairs)
        attention = LayerAttention(
            [teacher_shapes[t][1] for t in teachers],
            [student_shapes[s][1] for s in students],
            sees,
            guard=self.guard,
            per_frame=self.query == "frame",
            temperature=self.temperature,
            width=self.width,
            dimensions=self.dimensions,
        )
        return nn.ModuleDict({"attention": attention})

    def compare(self, teacher: list[Tensor], student: list[Tensor], heads: nn.ModuleDict) -> Tensor:
        attention = heads["attention"]
        assert isinstance(attention, LayerAttention)
        with full_precision(student[0].device):
            teacher, student = [exact(x.detach()) for x in teacher], [exact(x) for x in student]
            targets = attention.targets(teacher, student)
            estimates = attention.project(student)
            terms = [self._distance(a, b) for a, b in zip(targets, estimates, strict=True)]
            total = torch.stack(terms).mean()
            return total + attention.reconstruction(teacher) if self.guard == "reconstruct" else total

    def _distance(self, target: Tensor, estimate: Tensor) -> Tensor:
        if self.distance == "mse":
            return (estimate - target).square().mean()
        a, b = soft_unit(frame_vectors(target)), soft_unit(frame_vectors(estimate))
        return (1 - (a * b).sum(-1)).mean()


class LayerAttention(nn.Module):
    """Weights and compressed values of teacher layers for a set of student layers; see `AttentionCompression`."""

    def __init__(
        self,
        teacher_channels: Sequence[int],
        student_channels: Sequence[int],
        sees: Sequence[Sequence[int]],
        guard: str | None,
        per_frame: bool,
        temperature: float,
        width: int,
        dimensions: int,
    ) -> None:
        super().__init__()
        self.guard, self.per_frame, self.temperature = guard, per_frame, temperature
        self.sees = [list(seen) for seen in sees]
        self.queries = nn.ModuleList(nn.Linear(c, dimensions) for c in student_channels)
        self.keys = nn.ModuleList(nn.Linear(c, dimensions) for c in teacher_channels)
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1) for c in student_channels)
        self.values = nn.ModuleList(nn.Conv2d(c, width, 1, bias=False) for c in teacher_channels)
        for weight in self.values.parameters():
            nn.init.orthogonal_(weight)
        if guard == "fixed":
            self.values.requires_grad_(False)
        decoders = [nn.Conv2d(width, c, 1, bias=False) for c in teacher_channels] if guard == "reconstruct" else []
        self.decoders = nn.ModuleList(decoders)
        with torch.no_grad():  # start as the transposed projection: no worse than predicting nothing
            for encode, decode in zip(self.values.parameters(), self.decoders.parameters(), strict=False):
                decode.copy_(encode.transpose(0, 1))

    def weights(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        """For each student layer ``[B, 1 or T, n]`` over the n teacher layers it sees, adding up to one."""
        if len(teacher) != len(self.keys) or len(student) != len(self.queries):
            raise UserError(
                f"the heads attend from {len(self.queries)} student to {len(self.keys)} teacher layers, "
                f"not from {len(student)} to {len(teacher)}"
            )
        result = []
        for j, (linear, layer) in enumerate(zip(self.queries, student, strict=True)):
            frames = layer.shape[2] if self.per_frame else 1
            query = soft_unit(linear(_pool(layer, frames)))
            keys = [soft_unit(self.keys[i](_pool(teacher[i], frames))) for i in self.sees[j]]
            scores = torch.stack([(query * key).sum(-1) for key in keys], dim=-1)
            result.append((scores / self.temperature).softmax(-1))
        return result

    def targets(self, teacher: list[Tensor], student: list[Tensor]) -> list[Tensor]:
        """The compressed teacher for each student layer, ``[B, width, T, F]`` with that layer's T and F."""
        all_weights = self.weights(teacher, student)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.guard is None):
            compressed = [v(_standardise(x)) for v, x in zip(self.values, teacher, strict=True)]
        placed: dict[tuple[int, int, int], Tensor] = {}  # layers of equal shape share the resampled values
        result = []
        for j, (weights, layer) in enumerate(zip(all_weights, student, strict=True)):
            target = torch.zeros((), dtype=layer.dtype, device=layer.device)
            for n, i in enumerate(self.sees[j]):
                place = (i, layer.shape[2], layer.shape[3])
                if place not in placed:
                    value = resample(compressed[i], *place[1:])
                    placed[place] = value if self.guard is None else _standardise(value)
                target = target + weights[:, None, :, None, n] * placed[place]
            result.append(target)
        return result

    def project(self, student: list[Tensor]) -> list[Tensor]:
        """The student layers in the compressed space, ``[B, width, T, F]``."""
        return [p(x) for p, x in zip(self.projections, student, strict=True)]

    def reconstruction(self, teacher: list[Tensor]) -> Tensor:
        """Mean squared error of rebuilding each standardised teacher layer from its compression."""
        terms = []
        for value, decoder, layer in zip(self.values, self.decoders, teacher, strict=True):
            x = _standardise(layer)
            terms.append((decoder(value(x)) - x).square().mean())
        return torch.stack(terms).mean()


def split_pairs(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str], list[list[int]]]:
    """(teacher tap, student tap) pairs as teacher taps, student taps, and for each student tap the indices of the
    teacher taps paired with it."""
    teachers, students = list(dict.fromkeys(t for t, _ in pairs)), list(dict.fromkeys(s for _, s in pairs))
    known = set(pairs)
    return teachers, students, [[i for i, t in enumerate(teachers) if (t, s) in known] for s in students]


def _pool(x: Tensor, frames: int) -> Tensor:
    """``[B, C, T, F]`` to channel means ``[B, frames, C]``."""
    return resample(x, frames, 1)[..., 0].transpose(1, 2)


def _standardise(x: Tensor) -> Tensor:
    """Zero mean and unit variance over time and frequency, per item and channel; a constant channel becomes zero."""
    x = x - x.mean((2, 3), keepdim=True)
    return x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + FLOOR)
