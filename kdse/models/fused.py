"""Forms of two layers for whole signals on a CPU, with a backward written by hand.

Autograd notes a dozen small operations a frame for a GRU, and reads the input of a norm ten times. Here the products
with the input, and those for the gradients of weights, are taken out of the loop over frames, and groups run side by
side. Values and gradients equal those of autograd up to rounding (measured: 3 times as fast for the GRUs of the 62k
CRUSE, forward and backward on one core; no gain from 200 hidden units a group on). Not differentiable twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def grouped_gru(grus: nn.ModuleList, x: Tensor) -> Tensor:
    """Runs one-layer GRUs side by side from zero states: ``[G, T, B, I]`` in, ``[G, T, B, H]`` out."""
    groups, frames, batch, size = x.shape
    ih, hh, bias_ih, bias_hh = (
        torch.stack([getattr(gru, f"{name}_l0") for gru in grus])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gates = torch.baddbmm(bias_ih[:, None], x.reshape(groups, frames * batch, size), ih.transpose(1, 2))
    return _Recurrence.apply(gates.view(groups, frames, batch, -1).transpose(0, 1), hh, bias_hh).transpose(0, 1)


class _Recurrence(torch.autograd.Function):
    """The part of a GRU that depends on its hidden state, in the notation of `torch.nn.GRU`."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Input parts of the gates ``[T, G, B, 3 H]``, ``weight_hh`` ``[G, 3 H, H]`` and ``bias_hh`` ``[G, 3 H]`` to
        hidden states ``[T, G, B, H]``."""
        size = weight.shape[-1]
        weight_t, bias = weight.transpose(1, 2).contiguous(), bias[:, None]
        own = gates.new_empty(gates.shape)  # the hidden state's parts of the gates
        rz, n, hidden = (gates.new_empty(*gates.shape[:-1], k * size) for k in (2, 1, 1))
        h = gates.new_zeros(*gates.shape[1:-1], size)
        # views of all frames at once: slicing in the loop would cost as much as its arithmetic
        cut = [2 * size, size]
        views = [*gates.split(cut, -1), own, *own.split(cut, -1), rz, *rz.split(size, -1), n, hidden]
        for x_rz, x_n, own_t, own_rz, own_n, rz_t, r, z, n_t, out in zip(*(v.unbind() for v in views), strict=True):
            torch.baddbmm(bias, h, weight_t, out=own_t)
            torch.add(x_rz, own_rz, out=rz_t).sigmoid_()
            torch.addcmul(x_n, r, own_n, out=n_t).tanh_()
            h = torch.lerp(n_t, h, z, out=out)
        ctx.save_for_backward(own[..., 2 * size :], rz, n, hidden, weight)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own_n, rz, n, hidden, weight = ctx.saved_tensors
        frames, groups, batch, size = hidden.shape
        r, z = rz.split(size, dim=-1)
        before = torch.cat([torch.zeros_like(hidden[:1]), hidden[:-1]])
        # what a gradient of the hidden state is multiplied with, for the three gates before their nonlinearities
        to_n = (1 - z) * (1 - n.square())
        factors = torch.stack([to_n * own_n * r * (1 - r), (before - n) * z * (1 - z), to_n * r], dim=-2)
        by_gate = torch.empty_like(factors)
        states = torch.empty_like(hidden)
        h = torch.zeros_like(hidden[0])
        views = [grad, states, states[..., None, :], factors, by_gate, by_gate.flatten(-2), z]
        for grad_t, state, wide, factor, out, flat, z_t in zip(*(v.unbind()[::-1] for v in views), strict=True):
            torch.add(h, grad_t, out=state)
            torch.mul(wide, factor, out=out)
            h = torch.baddbmm(state * z_t, flat, weight)
        own = by_gate.flatten(-2)
        by_group = own.transpose(0, 1).reshape(groups, frames * batch, 3 * size)
        to_weight = by_group.transpose(1, 2) @ before.transpose(0, 1).reshape(groups, frames * batch, size)
        return torch.cat([own[..., : 2 * size], states * to_n], dim=-1), to_weight, by_group.sum(1)


def cumulative_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float, over_time: bool) -> Tensor:
    """`kdse.models.layers.CumulativeLayerNorm` of ``[B, C, T, F]``, which documents the arguments."""
    return _CumulativeNorm.apply(x, gain, bias, eps, over_time)


class _CumulativeNorm(torch.autograd.Function):
    """``gain (x - mean) scale + bias``; mean and scale of the frames so far. Works on ``[B, T, F, C]``, where the
    values of a frame lie side by side if the convolutions' memory format is channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, eps: float, over_time: bool) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        frames = x.flatten(2)  # a view in that format
        sums = torch.stack([frames.sum(-1), torch.linalg.vecdot(frames, frames)]).double()
        seen = torch.ones(x.shape[1], device=x.device, dtype=torch.float64)
        if over_time:
            sums, seen = sums.cumsum(-1), seen.cumsum(-1)
        count = seen * frames.shape[-1]
        mean, square = sums / count
        variance = square - mean.square()
        scale = variance.clamp_min(0.0).add(eps).rsqrt()
        factor = scale.to(x.dtype)[..., None, None] * gain
        shift = (-mean * scale).to(x.dtype)[..., None, None] * gain + bias
        ctx.save_for_backward(x, gain, mean, variance, scale, count)
        ctx.over_time = over_time
        return torch.addcmul(shift, x, factor).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, gain, mean, variance, scale, count = ctx.saved_tensors
        grad = grad.permute(0, 2, 3, 1).contiguous()
        by_x, plain = (part.sum(2).double() for part in (grad * x, grad))  # [B, T, C]
        wide = gain.double()
        to_scale = by_x @ wide - mean * (plain @ wide)
        to_variance = torch.where(variance > 0, -0.5 * scale**3 * to_scale, 0.0)
        to_mean = -scale * (plain @ wide) - 2 * mean * to_variance
        parts = torch.stack([to_mean, 2 * to_variance]) / count
        if ctx.over_time:  # a frame counts in the sums of all frames from it on
            parts = parts.flip(-1).cumsum(-1).flip(-1)
        shift, factor = parts.to(x.dtype)[..., None, None]
        to_x = torch.addcmul(shift, x, factor).addcmul_(grad, scale.to(x.dtype)[..., None, None] * gain)
        to_gain = ((by_x - mean[..., None] * plain) * scale[..., None]).sum((0, 1))
        return to_x.permute(0, 3, 1, 2), to_gain.to(x.dtype), plain.sum((0, 1)).to(x.dtype), None, None
