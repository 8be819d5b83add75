"""Cross-layer similarity: fused student levels agree with the teacher on which items look alike, frame by frame."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdse.objectives.base import Gathering, Shapes, Taps
from kdse.objectives.review_fusion import ReviewObjective
from kdse.objectives.shapes import require_equal
from kdse.objectives.similarity import SimilarityPreserving


class CrossLayerSimilarity(Gathering, ReviewObjective):
    """After CLSKD (Cheng et al., Interspeech 2022): review fusion and a frame-level similarity-preserving loss.

    ``(1 / b^2) sum_i sum_t || G_t(T_i) - G_t(S_i) ||_F^2`` with ``G_t = X_t X_t^T`` over the batch and X_t the
    ``[b, C F]`` activation of frame t; S_i is the fused student level (``reduction="sum"``, the equation as printed;
    "mean" as in `SimilarityPreserving`). The abstract was read, and the loss as arXiv 2309.08144 (section 2.2) states
    it; how the levels are fused is our reading: ReviewKD's blocks, one chain for the encoder and one for the decoder.
    Taps of the bottleneck are compared as they are, after an unofficial reproduction that fuses encoder and decoder
    only. BatchNorm in the fusion is our choice; the first author's later code has "instance".

    A fused level takes the teacher's frame count (nearest neighbours, our choice); a level that is not fused must
    have it.

    Args:
        fusion: fuse the levels; without it this is `SimilarityPreserving` over time.
        normalize: of the Grams: None leaves them raw, "row" or "frobenius" divide by L2 norms. The source is silent,
            None is our choice; a loss in the first author's other code uses "frobenius".
    """

    agree = "bt"
    direct_groups = ("bottleneck",)

    def __init__(self, fusion: bool = True, normalize: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fusion = fusion
        self.similarity = SimilarityPreserving(over=["time"], normalize=normalize, reduction=self.reduction)

    def resolve_pairs(self, teacher: Taps, student: Taps) -> list[tuple[str, str]]:
        pairs = super().resolve_pairs(teacher, student)
        if not self.fusion:
            self.chains = {}
        return pairs

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict:
        """As `ReviewObjective.build_heads`; pairs that are not fused must agree in frames."""
        fused = {i for chain in self.chains.values() for i in chain}
        for index, pair in enumerate(self.bound_pairs):
            if index not in fused:
                require_equal(self.name, pair, teacher_shapes[pair[0]], student_shapes[pair[1]], "t")
        return super().build_heads(teacher_shapes, student_shapes)

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        return self.similarity.layer(teacher, student)
