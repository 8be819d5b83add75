"""Cosine alignment of latents, after the cosine-distance paper (Luong et al., AES 158, 2025; arXiv 2505.03442).

We have read the paper's abstract only, and a summary of a third party: latents are aligned by cosine distance, which
keeps direction and leaves scale free. Which vectors, which head and which weights it uses is unknown; what is here is
our reconstruction, and every argument is our choice.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least, require_one_of, require_positive
from kdse.objectives.base import Exchange, Shapes
from kdse.objectives.layerwise import Layerwise, project
from kdse.objectives.shapes import require_equal, resample
from kdse.objectives.vectors import frame_vectors
from kdse.precision import exact, full_precision

KEY = "pair"  # of a pair's head, before its number


class CosineAlignment(Layerwise):
    """Mean cosine distance ``1 - <a, b> / max(|a| |b|, eps)`` of teacher vectors a and student vectors b, in [0, 2].

    The student's activation goes through a training-only head first, which brings it to the teacher's dimension and
    may reorder it; heads are trained with the student and dropped on export. Averaged over vectors, items and pairs.

    A zero vector (silence) has no direction: it is at distance 1 from everything. Where ``|a| |b| < eps`` the student
    gets no gradient; the equation's own, ``-a / eps``, would swamp every other vector's.

    Args:
        vectors: what is compared: "frame" one vector of channels times frequencies a frame; "channel" one of frames
            times frequencies a channel; "flattened" one an item.
        head: "inverted" a linear inverted bottleneck without its depthwise stage, which would mix frames: expand,
            ReLU, then linear (ReLU, not ReLU6, which would clip latents of unknown scale); "linear" one linear map;
            None compares the activations themselves, whose dimensions must then agree.
        head_over: "features" a head on channels times frequencies of a frame, which bridges other frequency counts
            (another depth) as well, but is large: a million parameters between two latents of 512 values;
            "channels" a small one on channels alone, the same at every frequency.
        expansion: hidden units of an inverted head, times the student's dimension. MobileNetV2 expands by 6; 2 keeps
            a head on features affordable.
        distance: "cosine", or "mse": the mean squared difference behind the same head, the comparison arm, for which
            `vectors` makes no difference.
        resample: axes ("time", "frequency") along which the teacher's activation is brought to the student's length,
            e.g. ["time"] if their hops differ.
        eps: smallest product of norms.
        pairs: see `Objective`. The latents by default.
    """

    agree = "bctf"

    def __init__(
        self,
        vectors: str = "frame",
        head: str | None = "inverted",
        head_over: str = "features",
        expansion: int = 2,
        distance: str = "cosine",
        resample: list[str] = [],  # noqa: B006 (jsonargparse shows it in --help)
        eps: float = 1e-8,
        pairs: str | list[list[str]] = "bottleneck",
        **kwargs: Any,
    ) -> None:
        super().__init__(reduction="mean", pairs=pairs, **kwargs)
        require_one_of("vectors", vectors, "frame", "channel", "flattened")
        require_one_of("head", head, "inverted", "linear", None)
        require_one_of("head_over", head_over, "features", "channels")
        require_one_of("distance", distance, "cosine", "mse")
        require_at_least(1, expansion=expansion)
        require_positive(eps=eps)
        if not set(resample) <= {"time", "frequency"} or len(set(resample)) != len(resample):
            raise UserError(f'resample={resample}: use any of "time" and "frequency", each once')
        self.vectors, self.head, self.head_over, self.expansion = vectors, head, head_over, expansion
        self.distance, self.resample, self.eps = distance, tuple(resample), eps

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        """One head a pair; shapes that neither head nor `resample` brings together are an error."""
        heads = nn.ModuleDict()
        fold = self.head_over == "features"
        for index, (t, s) in enumerate(self.bound_pairs):
            own = student_shapes[s]
            theirs = [*teacher_shapes[t][:2], *self._size(teacher_shapes[t], own)]
            axes = "ctf" if self.head is None else "t" if fold else "tf"
            require_equal(self.name, (t, s), theirs, own, axes)
            if self.head is not None:
                hidden = self.expansion if self.head == "inverted" else None
                heads[f"{KEY}{index}"] = Head((own[1], own[3]), (theirs[1], theirs[3]), fold, hidden)
        return heads

    def loss(self, exchange: Exchange) -> Tensor:
        teacher, student = self.activations(exchange)
        with full_precision(student[0].device):
            pairs = zip(teacher, student, strict=True)
            teacher = [resample(exact(a), *self._size(a.shape, b.shape)) for a, b in pairs]
        return self.compare(teacher, project(exchange.heads, student, KEY))

    def _size(self, teacher: torch.Size, student: torch.Size) -> tuple[int, int]:
        """Frames and frequencies that the teacher's activation is brought to."""
        frames = student[2] if "time" in self.resample else teacher[2]
        return frames, student[3] if "frequency" in self.resample else teacher[3]

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self.distance == "mse":
            return (student - teacher).square().mean()
        a, b = self._rows(teacher), self._rows(student)
        with torch.no_grad():
            silent = a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True) < self.eps
        b = torch.where(silent, b.detach(), b)
        norms = (a.norm(dim=-1) * b.norm(dim=-1)).clamp_min(self.eps)
        return (1 - (a * b).sum(-1) / norms).mean()

    def _rows(self, x: Tensor) -> Tensor:
        """``[B, C, T, F]`` to vectors ``[B, V, D]``."""
        if self.vectors == "frame":
            return frame_vectors(x)
        return x.flatten(2) if self.vectors == "channel" else x.flatten(1).unsqueeze(1)


class Head(nn.Module):
    """Maps ``[B, C, T, F]`` of the student to the teacher's C and F, every frame by itself.

    Args:
        source, target: (channels, frequencies) of student and teacher.
        fold: work on channels times frequencies; else on channels, alike at every frequency.
        expansion: hidden units over the input's; None for a single linear map.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int], fold: bool, expansion: int | None) -> None:
        super().__init__()
        self.target, self.fold = target, fold
        size, wanted = (source[0] * source[1], target[0] * target[1]) if fold else (source[0], target[0])
        self.expand = None if expansion is None else nn.Linear(size, expansion * size)
        self.project = nn.Linear(size if expansion is None else expansion * size, wanted)

    def forward(self, x: Tensor) -> Tensor:
        y = frame_vectors(x) if self.fold else x.permute(0, 2, 3, 1)
        if self.expand is not None:
            y = F.relu(self.expand(y))
        y = self.project(y)
        return y.unflatten(2, self.target).transpose(1, 2) if self.fold else y.permute(0, 3, 1, 2)
