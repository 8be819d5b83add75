"""Knowledge review: fused student levels follow the teacher's activations at several scales (ReviewKD)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdse.errors import UserError
from kdse.objectives.review_fusion import ReviewObjective


class KnowledgeReview(ReviewObjective):
    """ReviewKD (Chen et al., CVPR 2021), after the authors' CIFAR code: review fusion and hierarchical context loss.

    Per level: ``(m_full + sum_k 2^-k m_k) / (1 + sum_k 2^-k)`` with m the mean squared error of the activations as
    they are (full) and averaged to ``[pools[k-1], pools[k-1]]`` frames by frequencies, k = 1, 2, ...; a pool size that
    is not below the frame count is left out. The authors' maps are square. Ours are not: a map with fewer
    frequencies than the pool size keeps them all (our choice).

    The authors review one chain, a classifier's stages; one chain for each group of taps is our choice, since a
    U-Net's resolution falls and rises again. The fused feature takes the teacher's frames and frequencies, by
    nearest neighbours as in the authors' code. Theirs is ``reduction="sum"`` over levels, with weights of 0.6 to 8 by
    pair of networks (from memory, unchecked) that are warmed up over epochs: that is the schedule's business.

    Args:
        pools: sizes of the coarser scales, in the order of their weights 1/2, 1/4, 1/8.
    """

    agree = "bctf"

    def __init__(self, pools: list[int] = [4, 2, 1], **kwargs: Any) -> None:  # noqa: B006 (jsonargparse shows it)
        super().__init__(**kwargs)
        if any(size < 1 for size in pools):
            raise UserError(f"pools={pools}: sizes must be at least 1")
        self.pools = list(pools)

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        gap = student - teacher  # pooling is linear: one difference serves every scale
        frames, frequencies = gap.shape[2:]
        value, weight, total = gap.square().mean(), 1.0, 1.0
        for size in self.pools:
            if size >= frames:
                continue
            weight /= 2
            total += weight
            value = value + weight * F.adaptive_avg_pool2d(gap, (size, min(size, frequencies))).square().mean()
        return value / total
