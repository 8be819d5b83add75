"""Cross-layer similarity: fused student levels agree with the teacher on which items look alike, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdse.models.base import Tap
from kdse.objectives.review_fusion import ReviewObjective
from kdse.objectives.shapes import require_equal
from kdse.objectives.similarity import SimilarityPreserving


class CrossLayerSimilarity(ReviewObjective):
    """After CLSKD (Cheng et al., Interspeech 2022): review fusion and a frame-level similarity-preserving loss.

    ``(1 / b^2) sum_i sum_t || G_t(T_i) - G_t(S_i) ||_F^2`` with ``G_t = X_t X_t^T`` over the batch and X_t the
    ``[b, C F]`` activation of frame t; S_i is the fused student level. The abstract was read, and the loss as arXiv
    2309.08144 (section 2.2) states it; how the levels are fused is our reading: ReviewKD's blocks, one chain for the
    encoder and one for the decoder. Taps of the bottleneck are compared as they are, after an unofficial
    reproduction that fuses encoder and decoder only.

    A fused level takes the teacher's frame count (nearest neighbours, our choice); a level that is not fused must
    have it.

    Args:
        fusion: fuse the levels; without it this is `SimilarityPreserving` over time.
        normalize: of the Grams: None leaves them raw, "row" or "frobenius" divide by L2 norms. The source is silent,
            None is our choice; a loss in the first author's other code uses "frobenius".
        norm: normalisation in the fusion: "batch" (ReviewKD's, our choice) or "instance" (InstanceNorm and PReLU, the
            first author's later code). Under DDP, BatchNorm sees one process's items; `trainer.sync_batchnorm`
            makes it see all.
        mid_channels: channels of the carried feature; None is ReviewKD's ``min(512, channels of the deepest student
            level)``.
        reduction: "mean" averages over frames and levels and divides each raw Gram by the values it contracts (our
            choice, as `SimilarityPreserving`); "sum" is the equation as printed.
        gather: under DDP compare the global batch, not each process's own.
        weight: factor on the value.
        pairs: taps to compare; see `Objective`.
    """

    direct_groups = ("bottleneck",)

    def __init__(
        self,
        fusion: bool = True,
        normalize: str | None = None,
        norm: str = "batch",
        mid_channels: int | None = None,
        reduction: str = "mean",
        gather: bool = True,
        weight: float = 1.0,
        pairs: str | list[list[str]] = "all",
    ) -> None:
        super().__init__(norm, mid_channels, reduction, weight, pairs)
        self.fusion = fusion
        self.gather = gather
        self.similarity = SimilarityPreserving(over=["time"], normalize=normalize, reduction=reduction)

    def resolve_pairs(self, teacher: Mapping[str, Tap], student: Mapping[str, Tap]) -> list[tuple[str, str]]:
        pairs = super().resolve_pairs(teacher, student)
        if not self.fusion:
            self.chains = {}
        return pairs

    def build_heads(
        self, teacher_shapes: Mapping[str, torch.Size], student_shapes: Mapping[str, torch.Size]
    ) -> nn.ModuleDict | None:
        """As `ReviewObjective.build_heads`.

        Raises:
            ValueError: if a pair that is not fused differs in frames.
        """
        fused = {i for chain in self.chains.values() for i in chain}
        for index, pair in enumerate(self.bound_pairs):
            if index not in fused:
                require_equal(self.name, pair, teacher_shapes[pair[0]], student_shapes[pair[1]], "t")
        return super().build_heads(teacher_shapes, student_shapes)

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """The bare equation on activations ``[B, C, T, F]``; channels and frequencies may differ.

        Raises:
            ValueError: if batch or frames of a level differ.
        """
        levels = self._levels(teacher, student)
        for pair, a, b in levels:
            require_equal(self.name, pair, a.shape, b.shape, "bt")
        return self.similarity.compare([a for _, a, _ in levels], [b for _, _, b in levels])
