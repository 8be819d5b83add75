"""Cosine alignment of latents, after the cosine-distance paper (Luong et al., AES 158, 2025; arXiv 2505.03442).

We have read the paper's abstract only, and a summary of a third party: latents are aligned by cosine distance, which
keeps direction and leaves scale free. Which vectors, which head and which weights it uses is unknown; what is here is
our reconstruction, and every argument is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.objectives.base import Exchange, Objective
from kdse.objectives.shapes import require_equal, resample
from kdse.precision import exact

VECTORS = ("frame", "channel", "flattened")
HEADS = ("inverted", "linear", None)


class CosineAlignment(Objective):
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
        weight: factor on the value.
        pairs: taps to compare; see `Objective`. The latents by default.
    """

    def __init__(
        self,
        vectors: str = "frame",
        head: str | None = "inverted",
        head_over: str = "features",
        expansion: int = 2,
        distance: str = "cosine",
        resample: list[str] = [],  # noqa: B006 (jsonargparse shows it in --help)
        eps: float = 1e-8,
        weight: float = 1.0,
        pairs: str | list[list[str]] = "bottleneck",
    ) -> None:
        super().__init__(weight, pairs)
        if vectors not in VECTORS:
            raise UserError(f"vectors={vectors!r}: use one of {VECTORS}")
        if head not in HEADS:
            raise UserError(f'head={head!r}: use "inverted", "linear" or none')
        if head_over not in ("features", "channels"):
            raise UserError(f'head_over={head_over!r}: use "features" or "channels"')
        if expansion < 1:
            raise UserError(f"expansion={expansion}: must be 1 or more")
        if distance not in ("cosine", "mse"):
            raise UserError(f'distance={distance!r}: use "cosine" or "mse"')
        if not set(resample) <= {"time", "frequency"} or len(set(resample)) != len(resample):
            raise UserError(f'resample={resample}: use any of "time" and "frequency", each once')
        if not eps > 0:
            raise UserError(f"eps={eps}: must be above zero")
        self.vectors, self.head, self.head_over, self.expansion = vectors, head, head_over, expansion
        self.distance, self.resample, self.eps = distance, tuple(resample), eps

    def build_heads(
        self, teacher_shapes: Mapping[str, torch.Size], student_shapes: Mapping[str, torch.Size]
    ) -> nn.ModuleDict | None:
        """One head a pair, from the student's channels and frequencies to the teacher's.

        Raises:
            ValueError: if a pair's shapes differ where neither head nor `resample` bridges them.
        """
        heads = nn.ModuleDict()
        for index, (t, s) in enumerate(self.bound_pairs):
            theirs, own = list(teacher_shapes[t]), list(student_shapes[s])
            theirs[2] = own[2] if "time" in self.resample else theirs[2]
            theirs[3] = own[3] if "frequency" in self.resample else theirs[3]
            free = {"c": self.head is not None, "f": self.head is not None and self.head_over == "features"}
            axes = "".join(axis for axis in "ctf" if not free.get(axis))
            require_equal(self.name, (t, s), theirs, own, axes)
            if self.head is not None:
                fold = self.head_over == "features"
                hidden = self.expansion if self.head == "inverted" else None
                heads[_key(index)] = Head((own[1], own[3]), (theirs[1], theirs[3]), fold, hidden)
        return heads if len(heads) else None

    def loss(self, exchange: Exchange) -> Tensor:
        teacher, student = [], []
        for index, (t, s) in enumerate(self.bound_pairs):
            theirs, own = exact(exchange.teacher_taps[t]), exact(exchange.student_taps[s])
            frames = own.shape[2] if "time" in self.resample else None
            frequencies = own.shape[3] if "frequency" in self.resample else None
            with torch.autocast(own.device.type, enabled=False):
                teacher.append(resample(theirs, frames, frequencies))
                student.append(exchange.heads[_key(index)](own) if self.head is not None else own)
        return self.compare(teacher, student)

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The bare equation on activations ``[B, C, T, F]``, the student's as its heads give them.

        Raises:
            ValueError: if the shapes of a pair differ.
        """
        if not teacher or len(teacher) != len(student):
            raise UserError(f"objectives.{self.name}: {len(teacher)} teacher and {len(student)} student activations")
        terms = []
        for index, (a, b) in enumerate(zip(teacher, student, strict=True)):
            pair = self.bound_pairs[index] if len(self.bound_pairs) == len(teacher) else (f"layer {index}",) * 2
            require_equal(self.name, pair, a.shape, b.shape, "bctf")
            with torch.autocast(b.device.type, enabled=False):
                terms.append(self._distance(exact(a).detach(), exact(b)))
        return torch.stack(terms).mean()

    def _distance(self, teacher: Tensor, student: Tensor) -> Tensor:
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
            return x.transpose(1, 2).flatten(2)
        return x.flatten(2) if self.vectors == "channel" else x.flatten(1).unsqueeze(1)


class Head(nn.Module):
    """Maps ``[B, C, T, F]`` of the student to the teacher's C and F, every frame by itself.

    Args:
        source: (channels, frequencies) of the student.
        target: the same of the teacher.
        fold: work on channels times frequencies; else on channels, alike at every frequency.
        expansion: hidden units times the input's; None for a single linear map.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int], fold: bool, expansion: int | None) -> None:
        super().__init__()
        self.target, self.fold = target, fold
        size, wanted = (source[0] * source[1], target[0] * target[1]) if fold else (source[0], target[0])
        self.expand = None if expansion is None else nn.Linear(size, expansion * size)
        self.project = nn.Linear(size if expansion is None else expansion * size, wanted)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2).flatten(2) if self.fold else x.permute(0, 2, 3, 1)
        if self.expand is not None:
            y = F.relu(self.expand(y))
        y = self.project(y)
        return y.unflatten(2, self.target).transpose(1, 2) if self.fold else y.permute(0, 3, 1, 2)


def _key(index: int) -> str:
    return f"pair{index}"
