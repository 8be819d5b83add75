"""Blocks of MANNER on ``[B, C, T]``: residual conformer, multi-view attention, encoder and decoder blocks.

After Park et al., ICASSP 2022 (arXiv 2203.02181), with the details that the authors' code settles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VIEWS = ("channel", "global", "local")


class NormalisedConv(nn.Sequential):
    """Convolution without bias (odd kernel: the length stays), batch norm (momentum 0.01, the authors'), maybe ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1, relu: bool = False) -> None:
        conv = nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
        norm = nn.BatchNorm1d(channels_out, momentum=0.01)
        super().__init__(conv, norm, *([nn.ReLU()] if relu else []))


def depthwise(channels: int, kernel: int) -> nn.Sequential:
    """Depthwise convolution without bias, batch norm, Swish; the length stays."""
    conv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(channels), nn.SiLU())


class Gate(nn.Module):
    """``ReLU(W3(tanh(W1 x) * sigmoid(W2 x)))`` with 1x1 convolutions: MANNER's activation unit and its mask."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value, self.gate, self.out = (nn.Conv1d(channels, channels, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.out(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))))


class ResidualConformer(nn.Module):
    """Pointwise with GLU, depthwise (odd kernel), pointwise to the new width, 1x1; plus a 1x1 shortcut; ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 31) -> None:
        super().__init__()
        wide = 2 * channels_in
        self.expand = nn.Sequential(nn.Conv1d(channels_in, wide, 1), nn.BatchNorm1d(wide), nn.GLU(dim=1))
        self.depthwise = depthwise(channels_in, kernel)
        self.project = nn.Sequential(nn.Conv1d(channels_in, channels_out, 1), nn.BatchNorm1d(channels_out), nn.SiLU())
        self.out = NormalisedConv(channels_out, channels_out)
        self.shortcut = NormalisedConv(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(self.project(self.depthwise(self.expand(x))))
        return torch.relu(y + self.shortcut(x))


def cut(x: Tensor, size: int) -> Tensor:
    """``[B, C, T]`` to half-overlapping chunks ``[B, C, P, size]``; ``size`` zeros are put on either side first.

    P is ``(T + size) // (size / 2) + 1``; every sample of x lies in exactly two chunks.
    """
    return F.pad(x, (size, size)).unfold(-1, size, size // 2)


def join(chunks: Tensor, samples: int) -> Tensor:
    """Overlap-add of chunks ``[B, C, P, size]`` halved, the inverse of `cut`: ``[B, C, samples]``."""
    hop = chunks.shape[-1] // 2
    total = 0.5 * (chunks[:, :, 1:, :hop] + chunks[:, :, :-1, hop:])
    return total.flatten(2)[:, :, hop : hop + samples]  # what lies before is the rest of the padding


class ChannelAttention(nn.Module):
    """Scales each channel of ``[B, C, T]`` by a gate from its maximum and mean over time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.mlp = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.mlp(x.amax(-1)) + self.mlp(x.mean(-1)))
        return x * gate[:, :, None]


class GlobalAttention(nn.Module):
    """Self-attention across the chunks of each channel of ``[B, C, T]``; a chunk's samples are its features.

    No residual, no norm, no positions, no biases. A head is ``chunk * heads`` wide, as in the authors' code.
    """

    def __init__(self, chunk: int, heads: int = 1) -> None:
        super().__init__()
        self.chunk, self.heads = chunk, heads
        inner = chunk * heads * heads
        self.query, self.key, self.value = (nn.Linear(chunk, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, chunk, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        chunks = cut(x, self.chunk)  # [B, C, P, chunk]
        query, key, value = (self._split(layer(chunks)) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)  # [B, C heads, P, width]
        return join(self.out(mixed.unflatten(1, (-1, self.heads)).transpose(2, 3).flatten(3)), x.shape[-1])

    def _split(self, x: Tensor) -> Tensor:
        """``[B, C, P, heads width]`` to ``[B, C heads, P, width]``: channels do not see each other."""
        return x.unflatten(-1, (self.heads, -1)).transpose(2, 3).flatten(1, 2)


class LocalAttention(nn.Module):
    """Scales each sample of each chunk of ``[B, C, T]`` by a gate that all channels of the chunk share."""

    def __init__(self, channels: int, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.depthwise = depthwise(channels, 31)
        self.gate = NormalisedConv(2, 1, 7)

    def forward(self, x: Tensor) -> Tensor:
        chunks = cut(x, self.chunk).transpose(1, 2)  # [B, P, C, chunk]
        inside = self.depthwise(chunks.flatten(0, 1))
        pooled = torch.stack([inside.amax(1), inside.mean(1)], dim=1)
        gate = torch.sigmoid(self.gate(pooled)).unflatten(0, chunks.shape[:2])  # [B, P, 1, chunk]
        return join((chunks * gate).transpose(1, 2), x.shape[-1])


class MultiViewBlock(nn.Module):
    """Three attentions side by side on a third of the channels each, joined and gated, plus a 1x1 shortcut.

    `views` holds them by name ("channel", "global", "local"); each maps ``[B, C/3, T]`` to the same shape, and its
    output is the view that multi-view distillation compares. ``channels`` is a multiple of three.
    """

    def __init__(self, channels: int, chunk: int, heads: int) -> None:
        super().__init__()
        third = channels // 3
        self.reduce = nn.ModuleDict({view: NormalisedConv(channels, third, relu=True) for view in VIEWS})
        self.views = nn.ModuleDict(
            {
                "channel": ChannelAttention(third),
                "global": GlobalAttention(chunk, heads),
                "local": LocalAttention(third, chunk),
            }
        )
        self.refine = nn.ModuleDict({view: NormalisedConv(third, third, 3, relu=True) for view in VIEWS})
        self.merge = NormalisedConv(channels, channels)
        self.gate = Gate(channels)
        self.shortcut = NormalisedConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.refine[view](self.views[view](self.reduce[view](x))) for view in VIEWS]
        return self.shortcut(x) + self.gate(self.merge(torch.cat(branches, dim=1)))


class EncoderBlock(nn.Module):
    """Strided convolution (not padded), residual conformer to the new width, attention or an identity."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, attention: MultiViewBlock | None
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(channels_in, channels_in, kernel, stride)
        self.down = nn.Sequential(conv, nn.BatchNorm1d(channels_in), nn.ReLU())
        self.conformer = ResidualConformer(channels_in, channels_out)
        self.attention: nn.Module = attention or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.conformer(self.down(x)))


class DecoderBlock(nn.Module):
    """The mirror of `EncoderBlock`: residual conformer to the new width, transposed convolution, attention."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, attention: MultiViewBlock | None
    ) -> None:
        super().__init__()
        self.conformer = ResidualConformer(channels_in, channels_out)
        conv = nn.ConvTranspose1d(channels_out, channels_out, kernel, stride)
        self.up = nn.Sequential(conv, nn.BatchNorm1d(channels_out), nn.ReLU())
        self.attention: nn.Module = attention or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.up(self.conformer(x)))
