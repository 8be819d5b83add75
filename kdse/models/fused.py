"""Forms of layers for whole signals on a CPU, with a backward written by hand.

Autograd notes a dozen small operations a frame for a GRU, and reads the input of a norm ten times. Here the products
with the input, and those for the gradients of weights, are taken out of the loop over frames, and groups run side by
side; a block of convolution, norm and activation keeps two tensors. Values and gradients equal those of autograd up to
rounding (measured: 3 times as fast for the GRUs of the 62k CRUSE, forward and backward on one core; no gain from 200
hidden units a group on). What is left is bound by memory that no cache holds: fewer tensors are what makes a step
faster here, not fewer operations. Not differentiable twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def grouped_gru(grus: nn.ModuleList, x: Tensor) -> Tensor:
    """Runs one-layer GRUs side by side from zero states: ``[T, B, G, I]`` in, ``[T, G, B, H]`` out."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return _GroupedGru.apply(x, *(torch.stack([getattr(gru, f"{name}_l0") for gru in grus]) for name in names))


class _GroupedGru(torch.autograd.Function):
    """`grouped_gru` of stacked weights, in the notation of `torch.nn.GRU`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ih: Tensor, hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
        size = hh.shape[-1]
        cut = 2 * size  # the gates r and z, then n, whose part of the hidden state is multiplied by r
        bias = torch.cat([bias_ih[:, :cut] + bias_hh[:, :cut], bias_ih[:, cut:]], dim=-1)
        product = _products(x, ih, bias).transpose(1, 2)  # [T, G, B, 3 H]
        gates = torch.empty_like(product, memory_format=torch.contiguous_format)
        gates[..., :cut], gates[..., cut:] = product[..., :cut], bias_hh[:, None, cut:]
        n = product[..., cut:].contiguous()
        hidden = torch.empty_like(n)
        h, weight = torch.zeros_like(n[0]), hh.transpose(1, 2).contiguous()
        # views of all frames at once: slicing in the loop would cost as much as its arithmetic
        views = (gates, gates[..., :cut], *gates.split(size, -1), n, hidden)
        for all_t, rz, r, z, own, n_t, out in zip(*(v.unbind() for v in views), strict=True):
            all_t.baddbmm_(h, weight)
            rz.sigmoid_()
            n_t.addcmul_(r, own).tanh_()
            h = torch.lerp(n_t, h, z, out=out)
        ctx.save_for_backward(x, ih, hh, gates, n, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, ih, hh, gates, n, hidden = ctx.saved_tensors
        frames, groups, batch, size = hidden.shape
        r, z, own = gates.split(size, dim=-1)
        before = torch.cat([torch.zeros_like(hidden[:1]), hidden[:-1]])
        # what a gradient of the hidden state is multiplied with, for the three gates before their nonlinearities
        to_n = torch.ops.aten.tanh_backward(1 - z, n)
        to_r, to_z = (torch.ops.aten.sigmoid_backward(*pair) for pair in ((to_n * own, r), (before - n, z)))
        factors = torch.stack([to_r, to_z, to_n * r], dim=-2)
        states = torch.empty_like(hidden)
        states[-1] = grad[-1]
        views = (states, states[..., None, :], factors, factors.flatten(-2), z)
        earlier = [*zip(grad[:-1].unbind(), states[:-1].unbind(), strict=True)][::-1]
        for (state, wide, factor, by_gate, z_t), then in zip(
            zip(*(v.unbind()[::-1] for v in views), strict=True), [*earlier, None], strict=True
        ):
            factor.mul_(wide)
            if then is not None:
                torch.addcmul(then[0], state, z_t, out=then[1]).baddbmm_(by_gate, hh)
        by_own = factors.flatten(-2).transpose(1, 2).contiguous()  # [T, B, G, 3 H]
        inputs, seen, rows = (v.flatten(0, 1).transpose(0, 1) for v in (x, before.transpose(1, 2), by_own))
        to_hh, to_bias_hh = rows.transpose(1, 2) @ seen, rows.sum(1)
        by_own[..., 2 * size :] = (states * to_n).transpose(1, 2)  # now those of the input's parts
        to_x = _products(by_own, ih.transpose(1, 2))
        return to_x, rows.transpose(1, 2) @ inputs, to_hh, rows.sum(1), to_bias_hh


def _products(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W' + b`` of every group: ``[T, B, G, I]``, ``[G, O, I]``, ``[G, O]`` to ``[T, B, G, O]``; see `product`."""
    groups, outputs, inputs = weight.shape
    y = product(x.flatten(2), weight.reshape(-1, inputs), None if bias is None else bias.flatten(), groups)
    return y.unflatten(-1, (groups, outputs))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """``x W' + b`` of ``[A, B, I]`` and ``[O, I]`` as a convolution of width 1.

    oneDNN computes that; the matrix products of PyTorch are MKL's, which on AMD's processors take twice as long.
    """
    y = torch.conv2d(x[:, :, None].permute(0, 3, 1, 2), weight[..., None, None], bias, groups=groups)
    return y.permute(0, 2, 3, 1).squeeze(2)


def cumulative_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float, over_time: bool) -> Tensor:
    """`kdse.models.layers.CumulativeLayerNorm` of ``[B, C, T, F]``, which documents the arguments."""
    return _CumulativeNorm.apply(x, gain, bias, eps, over_time)


class _CumulativeNorm(torch.autograd.Function):
    """`_normalise` with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, eps: float, over_time: bool) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        y, moments = _normalise(x, gain, bias, eps, over_time)
        ctx.save_for_backward(x, gain, *moments)
        ctx.over_time = over_time
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, gain, *moments = ctx.saved_tensors
        to_x, to_gain, to_bias = _normalise_backward(grad.permute(0, 2, 3, 1), x, gain, moments, ctx.over_time, 0)
        return to_x.permute(0, 3, 1, 2), to_gain, to_bias, None, None


def _normalise(x: Tensor, gain: Tensor, bias: Tensor, eps: float, over_time: bool) -> tuple[Tensor, list[Tensor]]:
    """``gain (x - mean) scale + bias`` of ``[B, T, F, C]``, mean and scale of the frames so far; and what
    `_normalise_backward` needs of them."""
    frames = x.flatten(2)  # a view if the channels lie side by side in memory
    sums = torch.stack([frames.sum(-1), torch.linalg.vecdot(frames, frames)]).double()
    count = torch.full_like(sums[0, 0], frames.shape[-1])
    if over_time:
        sums, count = sums.cumsum(-1), count.cumsum(-1)
    mean, square = sums / count
    variance = square - mean.square()
    scale = variance.clamp_min(0.0).add(eps).rsqrt()
    factor, shift = torch.stack([scale, -mean * scale]).to(x.dtype)[..., None, None] * gain
    return torch.addcmul(shift + bias, x, factor), [mean, variance, scale, count]


def _normalise_backward(
    grad: Tensor, x: Tensor, gain: Tensor, moments: list[Tensor], over_time: bool, zeros: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for x, followed by so many frames of ``zeros``, for gain and for bias."""
    mean, variance, scale, count = moments
    batch, frames, bins, channels = x.shape
    to_x = x.new_empty(batch, frames + zeros, bins, channels)
    # sums over a frame and over all frames, as products of matrices [B T, F C] and vectors; the first product is kept
    # in the memory of the gradient, because allocating more takes time
    product = torch.mul(grad, x, out=to_x.view(-1)[: x.numel()].view(x.shape))
    rows, weights = product.flatten(2).flatten(0, 1), gain.repeat(bins)
    plain = grad.flatten(2).flatten(0, 1)
    by_x, by_one = (torch.mv(part, weights).view_as(mean).double() for part in (rows, plain))
    to_variance = torch.where(variance > 0, -0.5 * scale**3 * (by_x - mean * by_one), 0.0)
    to_mean = -scale * by_one - 2 * mean * to_variance
    parts = torch.stack([to_mean, 2 * to_variance]) / count
    if over_time:  # a frame counts in the sums of all frames from it on
        parts = parts.flip(-1).cumsum(-1).flip(-1)
    shift, factor = parts.to(x.dtype)[..., None, None]
    single = scale.to(x.dtype)
    to_gain = torch.mv(rows.t(), single.flatten()) - torch.mv(plain.t(), (mean * scale).to(x.dtype).flatten())
    to_x[:, frames:] = 0
    torch.mul(x, factor, out=to_x[:, :frames]).add_(shift).addcmul_(grad, single[..., None, None] * gain)
    return to_x, to_gain.view(-1, channels).sum(0), plain.sum(0).view(-1, channels).sum(0)


def causal_conv(x: Tensor, conv: nn.Module, up: bool) -> Tensor:
    """`kdse.models.layers.CausalConv` of 2 frames and 3 frequencies, on ``[B, C, T, F]``."""
    return _CausalConv.apply(x, conv.weight, conv.bias, up)


class _CausalConv(torch.autograd.Function):
    """`_convolve` with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, up: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.up = up
        return _convolve(x, weight, bias, up).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        to_y = torch.nn.functional.pad(grad.permute(0, 2, 3, 1), (0, 0, 0, 0, 0, 1))
        return *_convolve_backward(to_y, x, weight, ctx.up, ctx.needs_input_grad[0]), None


def causal_block(x: Tensor, block: Any) -> Tensor:
    """`kdse.models.layers.CausalBlock` with a cumulative norm and LeakyReLU, on ``[B, C, T, F]``."""
    conv, norm = block.conv, block.norm
    settings = block.up, norm.eps, norm.over_time, block.activation.negative_slope
    return _CausalBlock.apply(x, conv.weight, conv.bias, norm.gain, norm.bias, *settings)


class _CausalBlock(torch.autograd.Function):
    """Convolution, cumulative norm and LeakyReLU that keep two tensors of the output's size and copy none."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        conv_bias: Tensor,
        gain: Tensor,
        bias: Tensor,
        up: bool,
        eps: float,
        over_time: bool,
        slope: float,
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        y = _convolve(x, weight, conv_bias, up)
        out, moments = _normalise(y, gain, bias, eps, over_time)
        torch.nn.functional.leaky_relu_(out, slope)
        ctx.save_for_backward(x, weight, gain, y, out, *moments)
        ctx.settings = up, over_time, slope
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, weight, gain, y, out, *moments = ctx.saved_tensors
        up, over_time, slope = ctx.settings
        grad = torch.ops.aten.leaky_relu_backward(grad.permute(0, 2, 3, 1), out, slope, True)
        to_y, *to_norm = _normalise_backward(grad, y, gain, moments, over_time, 1)
        to_conv = _convolve_backward(to_y, x, weight, up, ctx.needs_input_grad[0])
        return *to_conv, *to_norm, None, None, None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, up: bool) -> Tensor:
    """The causal `kdse.models.layers.band_conv` of 2 frames and 3 frequencies: ``[B, I, T, F]`` to ``[B, T, F', O]``.

    It pads both ends of time and the last frame is left out, so that nothing is padded or cropped by a copy.
    """
    if up:
        y = _transposed(x, weight, bias)
    else:
        y = torch.conv2d(x, weight, bias, stride=(1, 2), padding=(1, 1)).permute(0, 2, 3, 1)
    return y[:, : x.shape[2]]


def _convolve_backward(to_y: Tensor, x: Tensor, weight: Tensor, up: bool, wanted: bool) -> tuple[Any, Any, Any]:
    """Gradients for input (None if not ``wanted``), weight and bias from that of ``[B, T + 1, F', O]``, whose last
    frame, which was left out, is zero."""
    to_y = to_y.permute(0, 3, 1, 2)
    settings = [to_y.shape[1]], (1, 2), (1 - up, 1), (1, 1), up, (0, int(up)), 1
    to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
        to_y, x, weight, *settings, [up and wanted, True, True]
    )
    if wanted and not up:
        to_x = _transposed(to_y, weight)[:, 1:-1].permute(0, 3, 1, 2)
    return to_x, to_weight, to_bias


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The transposed `kdse.models.layers.band_conv` of 2 frames and 3 frequencies: ``[B, I, T, F]`` to
    ``[B, T + 1, 2 F, O]``.

    As a plain convolution that gives even and odd frequencies side by side, which are neighbours in memory then.
    (Measured on a CPU: 0.4 to 0.7 of oneDNN's own, though a quarter of its products are with zero.)
    """
    outputs = weight.shape[1]
    taps = weight.flip(2).transpose(0, 1)  # [O, I, 2, 3]; frame t sees t - 1, then t
    kernel = weight.new_zeros(2, outputs, len(weight), 2, 2)
    kernel[0, ..., 0], kernel[1, ..., 0], kernel[1, ..., 1] = taps[..., 1], taps[..., 2], taps[..., 0]
    kernel = kernel.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    y = torch.conv2d(x, kernel, None if bias is None else bias.repeat(2), padding=1)
    y = y.permute(0, 2, 3, 1)[:, :, 1:]  # [B, T + 1, F, 2 O]
    return y.unflatten(-1, (2, outputs)).flatten(2, 3)
