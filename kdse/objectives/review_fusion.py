"""Review fusion: student levels are fused from deep to shallow before they meet the teacher's.

The attention-based fusion (ABF) recursion of ReviewKD (Chen et al., CVPR 2021; structure after the authors' code,
``CIFAR-100/model/reviewkd.py``), with the normalisation of its speech-enhancement relative (UCLFWPKD, Cheng et al.,
authors' code) as an option. Three objectives share it; it exists in training only and may look at future frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError, require_one_of
from kdse.objectives.base import Activations, Exchange, Shapes, Taps
from kdse.objectives.layerwise import Layerwise
from kdse.precision import full_precision

MOST_CHANNELS = 512  # ReviewKD's cap on the width of the carried feature


class FusionBlock(nn.Module):
    """One level: the student's activation and what the deeper levels carry, to a feature as wide as the teacher's.

    ``x = norm(conv1x1(student))``; with a carried feature y, resampled to x by nearest neighbours,
    ``x <- z_0 x + z_1 y`` where ``z = sigmoid(conv1x1([x; y]))`` are two maps; x is resampled to the teacher's frames
    and frequencies by nearest neighbours; the output is ``norm(conv3x3(x))``, and x is carried on.

    Args:
        student_channels, mid_channels, teacher_channels: of the student's activation, what is carried, the output.
        fuse: whether a deeper level carries something here.
        norm: "batch" (BatchNorm) or "instance" (InstanceNorm with gain and bias, then PReLU).
    """

    def __init__(self, student_channels: int, mid_channels: int, teacher_channels: int, fuse: bool, norm: str) -> None:
        super().__init__()
        self.enter = nn.Conv2d(student_channels, mid_channels, 1, bias=False)
        self.enter_norm = _norm(norm, mid_channels)
        self.attention = nn.Conv2d(2 * mid_channels, 2, 1) if fuse else None
        self.leave = nn.Conv2d(mid_channels, teacher_channels, 3, padding=1, bias=False)
        self.leave_norm = _norm(norm, teacher_channels)
        if norm == "batch":  # as ReviewKD draws them; UCLFWPKD keeps PyTorch's own
            nn.init.kaiming_uniform_(self.enter.weight, a=1)
            nn.init.kaiming_uniform_(self.leave.weight, a=1)

    def forward(self, student: Tensor, carried: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Student ``[B, C_s, T_s, F_s]`` and carried ``[B, M, *, *]`` to ``[B, C_t, *size]`` and ``[B, M, *size]``."""
        x = self.enter_norm(self.enter(student.to(self.enter.weight.dtype)))
        if self.attention is not None:
            assert carried is not None
            y = _nearest(carried, x.shape[2:])
            maps = torch.sigmoid(self.attention(torch.cat([x, y], dim=1)))
            x = maps[:, :1] * x + maps[:, 1:] * y
        x = _nearest(x, size)
        return self.leave_norm(self.leave(x)), x


class ReviewFusion(nn.Module):
    """A chain of levels, deepest first, from the channels of each student level and of the teacher level it meets.

    ``mid_channels`` are those of the carried feature; None for ``min(512, C of the deepest student level)``.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        mid_channels: int | None = None,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        mid = min(MOST_CHANNELS, student_channels[0]) if mid_channels is None else mid_channels
        self.blocks = nn.ModuleList(
            FusionBlock(student, mid, teacher, fuse=level > 0, norm=norm)
            for level, (student, teacher) in enumerate(zip(student_channels, teacher_channels, strict=True))
        )

    def forward(self, student: Sequence[Tensor], sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Student levels ``[B, C, T, F]`` and the teacher's (T, F), deepest first, to fused levels in that order."""
        carried, fused = None, []
        for block, level, size in zip(self.blocks, student, sizes, strict=True):
            output, carried = block(level, carried, size)
            fused.append(output)
        return fused


class ReviewObjective(Layerwise):
    """Base of objectives with review fusion: chains of levels, their heads, and fusing before comparing.

    The levels of a chain are the pairs whose student taps share a group. An encoder (and any group but the decoder)
    is reviewed from its last tap to its first, a decoder from its first, next to the bottleneck, to its last: low
    to high resolution in both, as UCLFWPKD's code does. A student tap paired with several teacher taps is a level
    for each, ordered by the teacher's taps.

    Subclasses implement `layer` on the teacher's activation and the fused student feature.

    Args:
        norm: normalisation in the fusion: "batch" (ReviewKD's) or "instance" (InstanceNorm and PReLU). Under DDP,
            BatchNorm sees one process's items; `trainer.sync_batchnorm` makes it see all.
        mid_channels: channels of the carried feature; None is ReviewKD's ``min(512, channels of the deepest student
            level)``.
    """

    direct_groups: tuple[str, ...] = ()  # groups compared as they are

    def __init__(self, norm: str = "batch", mid_channels: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_one_of("norm", norm, "batch", "instance")
        if mid_channels is not None and mid_channels < 1:
            raise UserError(f"mid_channels={mid_channels}: must be at least 1, or none")
        self.norm, self.mid_channels = norm, mid_channels
        self.chains: dict[str, list[int]] = {}  # head name to indices into bound_pairs, deepest first

    def resolve_pairs(self, teacher: Taps, student: Taps) -> list[tuple[str, str]]:
        """As `Objective.resolve_pairs`; also orders the pairs of each group into its chain."""
        pairs = super().resolve_pairs(teacher, student)
        at_teacher = {name: place for place, name in enumerate(teacher)}
        at_student = {name: place for place, name in enumerate(student)}
        groups: dict[str, list[int]] = {}
        for index, (_, name) in enumerate(pairs):
            groups.setdefault(student[name].group, []).append(index)
        self.chains = {}
        for group, indices in groups.items():
            if group in self.direct_groups:
                continue
            indices.sort(key=lambda i: (at_student[pairs[i][1]], at_teacher[pairs[i][0]]), reverse=group != "decoder")
            self.chains[f"{len(self.chains)}_{group or 'taps'}".replace(".", "_")] = indices
        return pairs

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        """One `ReviewFusion` a chain; only channel counts are built in, so any batch and length will do."""
        heads = nn.ModuleDict()
        for name, chain in self.chains.items():
            pairs = [self.bound_pairs[i] for i in chain]
            ours, theirs = [student_shapes[s][1] for _, s in pairs], [teacher_shapes[t][1] for t, _ in pairs]
            heads[name] = ReviewFusion(ours, theirs, self.mid_channels, self.norm)
        return heads

    def activations(self, exchange: Exchange) -> Activations:
        teacher, _ = super().activations(exchange)
        return teacher, self.fuse(exchange, teacher)

    def fuse(self, exchange: Exchange, teacher: list[Tensor]) -> list[Tensor]:
        """Student features in the order of ``bound_pairs``, fused where their group has a chain."""
        features = [exchange.student_taps[s] for _, s in self.bound_pairs]
        for name, chain in self.chains.items():
            with full_precision(features[chain[0]].device):
                fused = exchange.heads[name]([features[i] for i in chain], [teacher[i].shape[2:] for i in chain])
            for index, feature in zip(chain, fused, strict=True):
                features[index] = feature
        return features


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.Sequential(nn.InstanceNorm2d(channels, affine=True), nn.PReLU())


def _nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    return x if x.shape[2:] == torch.Size(size) else F.interpolate(x, size=tuple(size), mode="nearest")
