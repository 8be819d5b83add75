"""Uformer's layers: a complex and a magnitude branch side by side that inform each other after every layer.

A complex tensor is carried as a real one whose batch is twice as long, all real parts before all imaginary parts:
complex ``[B, C, T, F]`` is real ``[2B, C, T, F]``. A real layer with weights shared by both parts (layer norm, batch
norm over both parts, PReLU, dropout) is then an ordinary layer, and only what multiplies complex numbers
(`ComplexMap`, `ComplexAttention`) needs to know.

After the authors' public code (github.com/felixfuyihui/Uformer, June 2022), written anew from what it computes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.models.complex_layers import combine, halves
from kdse.models.layers import BandConv
from kdse.precision import exact

# Power below which a modulus counts as zero for gradients: the authors' constant, the float32 resolution.
FLOOR = torch.finfo(torch.float32).eps


def modulus(stacked: Tensor) -> Tensor:
    """``[2B, ...]`` to its modulus ``[B, ...]``, at least sqrt(FLOOR); computed in float32 at least."""
    real, imag = halves(exact(stacked))  # (squares overflow in float16)
    return (real.square() + imag.square()).clamp_min(FLOOR).sqrt()


def fuse(stacked: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Each branch is offset by the other: both parts by sigmoid(M), the magnitude by sigmoid(|C|)."""
    offset = magnitude.sigmoid()
    return stacked + torch.cat([offset, offset]), magnitude + modulus(stacked).sigmoid().to(magnitude.dtype)


class BranchView(nn.Module):
    """What a tap of a dual layer shows; its output feeds nothing else.

    Args:
        branch: "complex" (real and imaginary parts stacked on channels, ``[B, 2C, T, F]``), "magnitude"
            (``[B, C, T, F]``) or "both" (real, imaginary, magnitude: ``[B, 3C, T, F]``).
    """

    def __init__(self, branch: str) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, stacked: Tensor, magnitude: Tensor) -> Tensor:
        if self.branch == "magnitude":
            return magnitude
        parts = [*halves(stacked), magnitude]
        return torch.cat(parts if self.branch == "both" else parts[:2], dim=1)


class Dual(nn.Module):
    """A complex layer on ``[2B, C, T, F]`` and its real counterpart on the magnitude, then the fusion of their outputs.

    Args:
        view: what a tap shows of the outputs, or None.
        view_fused: show them after the fusion instead of before.
    """

    def __init__(
        self,
        complex_branch: nn.Module,
        magnitude_branch: nn.Module,
        view: BranchView | None = None,
        view_fused: bool = True,
    ) -> None:
        super().__init__()
        self.complex_branch, self.magnitude_branch = complex_branch, magnitude_branch
        self.view, self.view_fused = view, view_fused

    def forward(self, stacked: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        own = self.complex_branch(stacked), self.magnitude_branch(magnitude)
        fused = fuse(*own)
        if self.view is not None:
            self.view(*(fused if self.view_fused else own))
        return fused


class ComplexMap(nn.Module):
    """A complex linear map from two real ones: (R + iI)(a + ib) = (Ra - Ib) + i(Rb + Ia), on ``[2B, ...]``.

    Both real maps have their bias, as in the authors' code, so the biases add up to (r - i) + i(r + i). ``make``
    builds one of the two.
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.real, self.imag = make(), make()

    def forward(self, stacked: Tensor) -> Tensor:
        return torch.cat(combine(self.real(stacked), self.imag(stacked)))


def linear_map(is_complex: bool, make: Callable[[], nn.Module]) -> nn.Module:
    """The layer that ``make`` builds, or its complex counterpart."""
    return ComplexMap(make) if is_complex else make()


def band_layer(is_complex: bool, channels_in: int, channels_out: int, up: bool, last: bool = False) -> nn.Module:
    """`BandConv` over 2 frames and 5 frequencies, batch norm and PReLU (the decoder's last: the convolution alone)."""
    conv = linear_map(is_complex, lambda: BandConv(channels_in, channels_out, up, width=5))
    return conv if last else nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.PReLU())


def _on_last(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer that wants channels last, on ``[B, C, T, F]``."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FeedForward(nn.Module):
    """x + 0.5 y with y = norm, linear, PReLU, dropout, linear, dropout over the channels of ``[B, C, T, F]``."""

    def __init__(self, is_complex: bool, channels: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(channels),
            linear_map(is_complex, lambda: nn.Linear(channels, hidden)),
            nn.PReLU(),
            nn.Dropout(dropout),
            linear_map(is_complex, lambda: nn.Linear(hidden, channels)),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * _on_last(self.layers, x)


class RealAttention(nn.Module):
    """Single-head attention over the third axis of ``[B, S, L, C]``, result ``[B, S, L, A]``, no output projection."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))


class ComplexAttention(nn.Module):
    """Eight real attentions, one for each product of a part of q, k and v, summed as a product of complex numbers.

    With A(qkv) the attention of parts q, k, v: real = A(rrr) - A(rii) - A(iri) - A(iir) and
    imaginary = A(rri) + A(rir) + A(irr) - A(iii). Each of the eight has its own projections.
    Takes ``[2B, S, L, C]``, attends over L, returns ``[2B, S, L, A]``.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        # The four attentions that read one part as their query (key, value) share one matrix product.
        self.projections = nn.ModuleDict(
            {
                name: nn.ModuleList(nn.Linear(channels, 4 * width) for _ in ("real", "imag"))
                for name in ("query", "key", "value")
            }
        )

    def forward(self, stacked: Tensor) -> Tensor:
        parts = halves(stacked)
        batch, sequences = parts[0].shape[:2]
        query, key, value = (self._project(name, parts, axis) for axis, name in enumerate(self.projections))
        out = F.scaled_dot_product_attention(query, key, value)
        rrr, rri, rir, rii, irr, iri, iir, iii = out.unflatten(0, (batch, sequences)).unbind(2)
        return torch.cat([rrr - rii - iri - iir, rri + rir + irr - iii])

    def _project(self, name: str, parts: tuple[Tensor, ...], axis: int) -> Tensor:
        """``[B S, 8, L, A]``: the eight attentions in binary order of which part q, k and v read (rrr, rri, ...)."""
        projections = self.projections[name]
        assert isinstance(projections, nn.ModuleList)
        by_part = [
            project(part).flatten(0, 1).unflatten(-1, (2, 2, -1)).movedim(1, 3)  # [BS, other, other, L, A]
            for project, part in zip(projections, parts, strict=True)
        ]
        return torch.stack(by_part, dim=1 + axis).flatten(1, 3)


class AxisAttention(nn.Module):
    """x + y with y = norm, attention, norm, linear, norm, PReLU, dropout, on ``[B, C, T, F]``.

    Over ``axis`` "time" every frame sees every frame of its band, the future too; the other is "frequency".
    """

    def __init__(self, is_complex: bool, channels: int, width: int, axis: str, dropout: float) -> None:
        super().__init__()
        self.axis = axis
        self.layers = nn.Sequential(
            nn.LayerNorm(channels),
            ComplexAttention(channels, width) if is_complex else RealAttention(channels, width),
            nn.LayerNorm(width),
            linear_map(is_complex, lambda: nn.Linear(width, channels)),
            nn.LayerNorm(channels),
            nn.PReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.axis == "time":
            return x + self.layers(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        return x + _on_last(self.layers, x)


class DilatedConv(nn.Module):
    """x + y with two 3x3 convolutions of opposite dilation in time, one gating the other, on ``[B, C, T, F]``.

    y = norm, 1x1, PReLU, a * sigmoid(b), norm, Swish, 1x1, dropout, where a and b are the convolutions; ``dilations``
    are theirs, in frames.
    """

    def __init__(
        self, is_complex: bool, channels: int, hidden: int, dilations: tuple[int, int], dropout: float
    ) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            return linear_map(
                is_complex, lambda: nn.Conv2d(hidden, hidden, 3, padding=(dilation, 1), dilation=(dilation, 1))
            )

        self.narrow = nn.Sequential(
            nn.LayerNorm(channels), linear_map(is_complex, lambda: nn.Linear(channels, hidden)), nn.PReLU()
        )
        self.content, self.gate = conv(dilations[0]), conv(dilations[1])
        self.widen = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.SiLU(),
            linear_map(is_complex, lambda: nn.Linear(hidden, channels)),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = _on_last(self.narrow, x)
        return x + _on_last(self.widen, self.content(y) * self.gate(y).sigmoid())


class ConformerBlock(nn.Module):
    """Feed-forward, attention over time, attention over frequency, dilated convolutions, feed-forward, norm.

    Both branches are fused after each of these; a layer norm per branch ends the block. Of the n dilated layers
    number i has the dilations 2^i and 2^(n - 1 - i).
    """

    def __init__(
        self,
        channels: int,
        attention_channels: int,
        ff_channels: int,
        dilated_channels: int,
        dilated_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()

        def dual(make: Callable[[bool], nn.Module]) -> Dual:
            return Dual(make(True), make(False))

        def dilated(i: int) -> Dual:
            pair = 2**i, 2 ** (dilated_layers - 1 - i)
            return dual(lambda c: DilatedConv(c, channels, dilated_channels, pair, dropout))

        self.layers = nn.ModuleList(
            [
                dual(lambda c: FeedForward(c, channels, ff_channels, dropout)),
                dual(lambda c: AxisAttention(c, channels, attention_channels, "time", dropout)),
                dual(lambda c: AxisAttention(c, channels, attention_channels, "frequency", dropout)),
                *map(dilated, range(dilated_layers)),
                dual(lambda c: FeedForward(c, channels, ff_channels, dropout)),
            ]
        )
        self.complex_norm, self.magnitude_norm = nn.LayerNorm(channels), nn.LayerNorm(channels)

    def forward(self, stacked: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            stacked, magnitude = layer(stacked, magnitude)
        return _on_last(self.complex_norm, stacked), _on_last(self.magnitude_norm, magnitude)
