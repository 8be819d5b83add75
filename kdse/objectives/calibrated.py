"""I2S-TFCKD: similarity over time and over the batch, between all layers of a set, with calibrated weights.

After the authors' demonstration code (JMCheng-SEU/I2RF-TFCKD-SE, ``I2S_TFCKD_demo.py``) of Cheng et al., arXiv
2506.13127, whose later versions call it I2RF-TFCKD and I2SRF-TFCKD; of the paper only the abstract was seen. The
"cross" part of its cross-calibration is not visible in that code and is not here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError, require_at_least, require_one_of
from kdse.objectives.base import Exchange, Shapes, Taps
from kdse.objectives.compression import split_pairs
from kdse.objectives.review_fusion import FusionBlock, ReviewFusion
from kdse.objectives.semantic import FixedBatch
from kdse.objectives.shapes import resample
from kdse.objectives.vectors import frame_vectors, perceptron, soft_unit
from kdse.precision import exact, full_precision

# The authors have no floor, which is log 0 for opposite vectors; and they add 1e-6 to norms, which passes a gradient
# of 1e6 through a silent frame (`soft_unit` does not).
SIMILARITY_FLOOR = 1e-4


class TimeFrequencyCalibrated(FixedBatch):
    """Intra-set and inter-set distillation of two similarity streams, after I2S-TFCKD.

    Sets are the groups of taps (encoder, bottleneck, decoder). Within a set every student layer i is compared with
    every teacher layer j (intra-set); then each set is fused into one feature and every student set is compared with
    every teacher set in the same way (inter-set). With X ``[B, T, C F]`` a layer, two streams:

    - time: similarity of the frames of one item, M = T columns;
    - batch (the authors' code calls it "freq"): similarity of the items in one frame, M = B columns.

    Each stream has raw products G ``[B, T, M]`` (``X X^T``) and probabilities P ``[B, T, M]``, which are
    ``(cosine + 1) / 2`` divided by their sum over M. A two-layer perceptron of the layer's own maps each row of G to
    M' entries of unit length (the authors' demo code normalises over frames instead, which looks like a slip: rows are
    our reading), queries of the student and keys of the teacher, and
    ``w[b, t, i, j] = softmax_j <query_i, key_j>``. With Jeffreys' ``J(P, Q) = (P - Q) (log P - log Q)``:

    ``L_stream = 1/n_S sum_ij mean_{b, m} sum_t w[b, t, i, j] J(P_T^j, P_S^i)``, summed over streams and over the
    sets and the inter-set part.

    Perceptrons are T -> 2 T -> T and B -> f B -> f B, so batch size and frame count are widths of the heads. Fusion
    is the recursion of `ReviewFusion` with instance norm, the encoder and bottleneck from first to last layer and the
    decoder from last to first, so that each ends beside the bottleneck, as in the authors' code. The teacher's
    fusion is trained through the weights only: its features are detached where they are targets, as there, so that
    no target can move towards the student. Values are small, since probabilities are near 1/M: 1e-4 for an untrained
    CRUSE pair with the defaults.

    Args:
        frames: frames that activations are averaged to over time before anything else. 32 is our choice: any clip
            length works, and the default teacher and student at 32 x 2 s take 7 s forward and backward on one core
            where all 126 frames take 46 s, nearly all of it in the fusion. null takes activations as they are,
            as the authors do, which needs crops of one length and one frame rate in all taps.
        factor: f, the width of the batch stream's embedding (2 in the authors' code).
        inter_set: compare fused sets as well; false leaves the intra-set part alone.
        mid_channels: channels inside the fusion (128 in the authors' code).
        reduction: "mean" sums J over its columns to a divergence and averages over frames, streams and parts (our
            choice: the value does not shrink as batch and frames grow); "sum" is the equation above, the authors'.
        pairs: "all", one group ("encoder", "bottleneck", "decoder"), or a list of [teacher_tap, student_tap]: it
            selects which taps take part, and within a set (the student tap's group) all are compared with all.
    """

    every_pair = True

    def __init__(
        self,
        frames: int | None = 32,
        factor: int = 2,
        inter_set: bool = True,
        mid_channels: int = 128,
        reduction: str = "mean",
        pairs: str | list[list[str]] = "all",
        **kwargs: Any,
    ) -> None:
        super().__init__(pairs=pairs, **kwargs)
        if frames is not None and frames < 2:
            raise UserError(f"frames={frames}: frames are compared with each other, so at least 2, or null")
        require_at_least(1, factor=factor, mid_channels=mid_channels)
        require_one_of("reduction", reduction, "mean", "sum")
        self.frames, self.factor, self.inter_set, self.mid_channels = frames, factor, inter_set, mid_channels
        self.reduction = reduction
        self.sets: dict[str, list[tuple[str, str]]] = {}  # group to its (teacher tap, student tap) pairs

    def resolve_pairs(self, teacher: Taps, student: Taps) -> list[tuple[str, str]]:
        """Every student tap with every teacher tap of its set, set by set."""
        pairs = super().resolve_pairs(teacher, student)
        if isinstance(self.pairs, str):
            pairs = [(t, s) for t, s in pairs if teacher[t].group == student[s].group]
            groups_t, groups_s = {teacher[t].group for t in teacher}, {student[s].group for s in student}
            if self.pairs == "all" and groups_t != groups_s:
                raise UserError(
                    f"objectives.{self.name}.pairs: the teacher's taps are in the groups {sorted(groups_t)} and the "
                    f"student's in {sorted(groups_s)}; give one group, or list [teacher, student] taps yourself"
                )
        chosen: dict[str, list[tuple[str, str]]] = {}
        for t, s in pairs:
            chosen.setdefault(student[s].group, []).append((t, s))
        self.sets = {}
        for group, members in chosen.items():
            teachers = [name for name in teacher if any(name == t for t, _ in members)]
            students = [name for name in student if any(name == s for _, s in members)]
            self.sets[group] = [(t, s) for s in students for t in teachers]
        return [pair for members in self.sets.values() for pair in members]

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        frames = self._head_frames(teacher_shapes, student_shapes)
        heads = nn.ModuleDict()
        for index, (teachers, students) in enumerate(self._layers()):
            heads[f"intra{index}"] = Calibration(len(teachers), len(students), frames, self.batch_size, self.factor)
            if self.inter_set:
                # Outputs keep the channels of the layer where the recursion ends, as in the authors' code.
                widths = {"teacher": [teacher_shapes[t][1] for t in teachers]}
                widths["student"] = [student_shapes[s][1] for s in students]
                for side, channels in widths.items():
                    heads[f"{side}_fusion{index}"] = _fusion(channels, self.mid_channels)
        if self.inter_set:
            count = len(self.sets)
            heads["inter"] = Calibration(count, count, frames, self.batch_size, self.factor)
        return heads

    def _layers(self) -> list[tuple[list[str], list[str]]]:
        """Teacher and student taps of each set, in the order in which a set is fused."""
        result = []
        for group, pairs in self.sets.items():
            teachers, students, _ = split_pairs(pairs)
            step = -1 if group == "decoder" else 1
            result.append((teachers[::step], students[::step]))
        return result

    def _head_frames(self, teacher: Shapes, student: Shapes) -> int:
        if self.frames is not None:
            return self.frames
        counts = {teacher[t][2] for t, _ in self.bound_pairs} | {student[s][2] for _, s in self.bound_pairs}
        if len(counts) > 1:
            raise UserError(
                f"objectives.{self.name}: the taps have {sorted(counts)} frames; set --objectives.{self.name}.frames "
                "to the number they are all averaged to"
            )
        return counts.pop()

    def loss(self, exchange: Exchange) -> Tensor:
        layers = self._layers()
        teacher = [self.gathered([exchange.teacher_taps[t] for t in names]) for names, _ in layers]
        student = [self.gathered([exchange.student_taps[s] for s in names]) for _, names in layers]
        return self.compare(teacher, student, exchange.heads)

    def compare(self, teacher: list[list[Tensor]], student: list[list[Tensor]], heads: nn.ModuleDict) -> Tensor:
        """The bare equation on sets of layers ``[B, C, T, F]``, each set in the order in which it is fused."""
        self.require_batch([x for layers in [*teacher, *student] for x in layers])
        with full_precision(student[0][0].device):
            teacher = [[self._place(x.detach()) for x in layers] for layers in teacher]
            student = [[self._place(x) for x in layers] for layers in student]
            terms = [
                self._calibrated(a, b, heads[f"intra{index}"])
                for index, (a, b) in enumerate(zip(teacher, student, strict=True))
            ]
            if self.inter_set:
                fused_t = [_fuse(heads[f"teacher_fusion{index}"], layers) for index, layers in enumerate(teacher)]
                fused_s = [_fuse(heads[f"student_fusion{index}"], layers) for index, layers in enumerate(student)]
                terms.append(self._calibrated(fused_t, fused_s, heads["inter"]))
            total = torch.stack(terms)
            return total.sum() if self.reduction == "sum" else total.mean()

    def _place(self, x: Tensor) -> Tensor:
        return resample(exact(x), self.frames)

    def _calibrated(self, teacher: list[Tensor], student: list[Tensor], head: nn.Module) -> Tensor:
        """One set: both streams, all pairs."""
        assert isinstance(head, Calibration)
        rows_t, rows_s = [frame_vectors(x) for x in teacher], [frame_vectors(x) for x in student]
        for x in [*rows_t, *rows_s]:
            if x.shape[1] != head.frames:
                raise UserError(
                    f"objectives.{self.name}: its heads are built for {head.frames} frames and this batch has "
                    f"{x.shape[1]}; train on crops of one length or set --objectives.{self.name}.frames to the number "
                    "that clips of any length are averaged to"
                )
        streams = []
        for stream in ("time", "batch"):
            weights = head(
                stream,
                [_products(x, stream, self.scale_similarity) for x in rows_t],
                [_products(x, stream, self.scale_similarity) for x in rows_s],
            )
            targets = [_log_probabilities(x.detach(), stream) for x in rows_t]
            estimates = [_log_probabilities(x, stream) for x in rows_s]
            total = weights.new_zeros(())
            for i, q in enumerate(estimates):
                for j, p in enumerate(targets):
                    divergence = ((p.exp() - q.exp()) * (p - q)).sum(-1)
                    weighted = weights[..., i, j] * divergence
                    scale = head.frames / p.shape[-1] if self.reduction == "sum" else 1
                    total = total + scale * weighted.mean()
            streams.append(total / len(student))
        total = torch.stack(streams)
        return total.sum() if self.reduction == "sum" else total.mean()


class Calibration(nn.Module):
    """Weights of layer pairs from rows of raw similarities; see `TimeFrequencyCalibrated`."""

    def __init__(self, teachers: int, students: int, frames: int, batch: int, factor: int) -> None:
        super().__init__()
        self.frames = frames
        widths = {"time": (frames, 2 * frames, frames), "batch": (batch, factor * batch, factor * batch)}
        for stream, width in widths.items():
            self.add_module(f"{stream}_keys", nn.ModuleList(perceptron(*width) for _ in range(teachers)))
            self.add_module(f"{stream}_queries", nn.ModuleList(perceptron(*width) for _ in range(students)))

    def forward(self, stream: str, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """Products ``[B, T, M]`` of each layer to weights ``[B, T, student layers, teacher layers]``."""
        keys = _embed(self.get_submodule(f"{stream}_keys"), teacher)
        queries = _embed(self.get_submodule(f"{stream}_queries"), student)
        return (queries @ keys.transpose(-1, -2)).softmax(-1)


def _embed(networks: nn.Module, layers: list[Tensor]) -> Tensor:
    """One unit-length embedding a layer: ``[B, T, layers, entries]``."""
    assert isinstance(networks, nn.ModuleList)
    return torch.stack([F.normalize(net(x), dim=-1) for net, x in zip(networks, layers, strict=True)], dim=2)


def _similar(x: Tensor, stream: str) -> Tensor:
    """Products of ``[B, T, K]``: between frames ``[B, T, T]``, or between items of a frame ``[B, T, B]``."""
    if stream == "time":
        return x @ x.transpose(1, 2)
    frames = x.transpose(0, 1)
    return (frames @ frames.transpose(1, 2)).transpose(0, 1)


def _products(x: Tensor, stream: str, scale: bool) -> Tensor:
    return _similar(x, stream) / (x.shape[-1] if scale else 1)


def _log_probabilities(x: Tensor, stream: str) -> Tensor:
    """Logarithms of ``(cosine + 1) / 2``, normalised over the last axis: ``[B, T, T]`` or ``[B, T, B]``."""
    similarity = ((_similar(soft_unit(x), stream) + 1) / 2).clamp_min(SIMILARITY_FLOOR)
    return similarity.log() - similarity.sum(-1, keepdim=True).log()


def _fusion(channels: list[int], mid_channels: int) -> ReviewFusion:
    """A chain of which only the last output is wanted: the other levels only carry on."""
    fusion = ReviewFusion(channels, channels, mid_channels, norm="instance")
    for block in list(fusion.blocks)[:-1]:
        assert isinstance(block, FusionBlock)
        block.leave = block.leave_norm = nn.Identity()  # type: ignore[assignment]  # (no convolution, on purpose)
    return fusion


def _fuse(fusion: nn.Module, layers: list[Tensor]) -> Tensor:
    """Layers ``[B, C, T, F]`` in the order of fusing to the one feature they end in."""
    return fusion(layers, [x.shape[2:] for x in layers])[-1]
