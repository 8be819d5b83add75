"""Causal layers on ``[B, C, T, F]``, each with a streaming form that takes the next frames and a state.

Layers with state have ``initial_state(batch, frequencies, device)`` (frequencies of the input) and
``step(x [B, C, T, F], state) -> (y, state)``. Graphs of one hop (T = 1) are bound by the number of their operations,
so steps are written for few of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.internals.torch import has_forward_hooks
from kdse.models import fused

State = dict[str, Tensor]


def named(name: str, state: State) -> State:
    """The state of a part, ready to join that of the whole: ``{"sums": ...}`` becomes ``{"encoder0.sums": ...}``."""
    return {f"{name}.{key}": value for key, value in state.items()}


def whole(name: str, part: nn.Module, x: Tensor) -> Tensor:
    """Runs a part of a network on all frames."""
    return part(x)


class NextFrames:
    """Runs parts of a network on the next frames with the network's ``state``: `whole`, but by their steps. `new`
    collects their new states."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.new: State = {}

    def __call__(self, name: str, part: Any, x: Tensor) -> Tensor:
        own = {k.removeprefix(f"{name}."): v for k, v in self.state.items() if k.startswith(f"{name}.")}
        y, after = part.step(x, own)
        self.new |= named(name, after)
        return y


def _fused(x: Tensor) -> bool:
    """Whether the forms of `kdse.models.fused` may run: in full precision, on a CPU with oneDNN (which is off where
    `kdse.deploy.cost` counts a layer's own products), and not for an export.

    (On a GPU the kernels of cuDNN are the faster recurrence.)
    """
    exported = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or exported:
        return False
    return bool(torch.backends.mkldnn.enabled)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """``x [B, T, I]`` times a matrix ``[I, O]``, in the fastest way for whole signals."""
    return fused.product(x, matrix.t()) if _fused(x) and x.shape[1] > 1 else x @ matrix


def join_skip(x: Tensor, skip: nn.Module, earlier: Tensor) -> Tensor:
    """``x + skip(earlier)``, in the memory of the skip's output unless a forward hook sees that."""
    if has_forward_hooks(skip) or not _fused(x):
        return x + skip(earlier)
    y: Tensor = skip(earlier)
    return y.add_(x)


class CumulativeLayerNorm(nn.Module):
    """Layer norm over channels, frequency and all frames so far (Conv-TasNet's cLN), gain and bias per channel.

    Running sums are kept in float64, so an hour of audio does not drift.

    Args:
        channels: of the input.
        over_time: statistics of all frames so far; False takes those of the frame alone.
        eps: added to the variance.
    """

    def __init__(self, channels: int, over_time: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps, self.over_time = eps, over_time
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``[B, C, T, F]``; frame t uses frames 0..t."""
        if _fused(x):
            return fused.cumulative_norm(x, self.gain, self.bias, self.eps, self.over_time)
        sums = torch.stack([x.sum((1, 3)), x.square().sum((1, 3))]).double()
        values = x.shape[1] * x.shape[3]
        if not self.over_time:
            return self._normalise(x, sums / values)
        count = torch.arange(1, x.shape[2] + 1, device=x.device, dtype=torch.float64) * values
        return self._normalise(x, sums.cumsum(-1) / count)

    def _normalise(self, x: Tensor, moments: Tensor) -> Tensor:
        mean, square = moments
        scale = (square - mean.square()).clamp_min(0.0).add(self.eps).rsqrt()
        shift = -mean * scale
        scale_bctf = scale.to(x.dtype)[:, None, :, None] * self.gain[None, :, None, None]
        shift_bctf = shift.to(x.dtype)[:, None, :, None] * self.gain[None, :, None, None] + self.bias[:, None, None]
        return torch.addcmul(shift_bctf, x, scale_bctf)

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        return {"sums": torch.zeros(batch, 3, 1, 1, dtype=torch.float64, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        sums, squares = x.sum((1, 3), keepdim=True), (x * x).sum((1, 3), keepdim=True)
        seen = torch.cat([sums, squares, torch.full_like(sums, x.shape[1] * x.shape[3])], dim=1).double()
        if self.over_time:
            seen = state["sums"] + (seen.cumsum(2) if x.shape[2] > 1 else seen)
        total, square, count = seen.split(1, dim=1)
        mean = total / count
        deviation = (square / count - mean * mean).clamp_min(0.0).add(self.eps).sqrt()
        factor = self.gain[:, None, None] / deviation.to(x.dtype)
        return (x - mean.to(x.dtype)) * factor + self.bias[:, None, None], {"sums": seen[:, :, -1:]}


def band_conv(
    channels_in: int, channels_out: int, up: bool, frames: int = 2, width: int = 3, groups: int = 1, bias: bool = True
) -> nn.Conv2d | nn.ConvTranspose2d:
    """Convolution over K frames and ``width`` frequencies, stride 2 in frequency, no padding in time.

    F frequencies give F / 2 and T frames T - K + 1; with ``up`` it is the transposed one: 2 F and T + K - 1.
    """
    shared: dict[str, Any] = {"stride": (1, 2), "padding": (0, width // 2), "groups": groups, "bias": bias}
    if up:
        return nn.ConvTranspose2d(channels_in, channels_out, (frames, width), output_padding=(0, 1), **shared)
    return nn.Conv2d(channels_in, channels_out, (frames, width), **shared)


class CausalConv(nn.Module):
    """A convolution without padding in time, whose frame t sees frames t - K + 1 to t; those before the first are
    zeros. K is ``frames``, gaps of a dilated one included."""

    def __init__(self, conv: nn.Module, channels_in: int, up: bool, frames: int = 2) -> None:
        super().__init__()
        # channels side by side: convolutions take them so, and a norm over a frame reads one piece of memory
        self.conv = conv.to(memory_format=torch.channels_last)
        self.channels_in, self.up, self.frames = channels_in, up, frames

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, : x.shape[2]] if self.up else self.conv(F.pad(x, (0, 0, self.frames - 1, 0)))

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        if self.frames == 1:
            return {}
        return {"past": torch.zeros(batch, self.channels_in, self.frames - 1, frequencies, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if self.frames == 1:
            return self.conv(x), {}
        seen = torch.cat([state["past"], x], dim=2)
        before, frames = self.frames - 1, x.shape[2]
        past = x if frames == before else seen[:, :, frames:]
        conv: Any = self.conv
        if isinstance(conv, nn.ConvTranspose2d) and frames == conv.groups == conv.dilation[0] == 1:
            # frames side by side as channels: one frame comes out, not those around it too
            weight = conv.weight.flip(2).transpose(1, 2).flatten(0, 1)[:, :, None]
            wide = seen.reshape(x.shape[0], -1, 1, x.shape[3])
            at_bands = (1, conv.stride[1]), (0, int(conv.padding[1])), (0, conv.output_padding[1])
            return F.conv_transpose2d(wide, weight, conv.bias, *at_bands), {"past": past}
        y = conv(seen)
        return y[:, :, before : before + frames] if self.up else y, {"past": past}


class Stages(nn.Sequential):
    """Named stages in a row, with or without state; those with one that depends on frequencies see the input's."""

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        state: State = {}
        for name, stage in self.named_children():
            initial_state = getattr(stage, "initial_state", None)
            if initial_state is not None:
                state |= named(name, initial_state(batch, frequencies, device))
        return state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        run = NextFrames(state)
        for name, stage in self.named_children():
            x = run(name, stage, x) if hasattr(stage, "step") else stage(x)
        return x, run.new


class BandConv(CausalConv):
    """The causal form of `band_conv`, whose arguments it takes."""

    def __init__(self, channels_in: int, channels_out: int, up: bool, frames: int = 2, **settings: Any) -> None:
        super().__init__(band_conv(channels_in, channels_out, up, frames, **settings), channels_in, up, frames)


class CausalBlock(BandConv):
    """`BandConv` of 2 frames and 3 frequencies, cumulative layer norm, activation.

    The three stages are the submodules `conv`, `norm` (an identity in the last block) and `activation`, so that each
    can be tapped.

    Args:
        last: sigmoid without a norm, as in CRUSE's final block.
        slope: of LeakyReLU.
        norm_over_time: see `CumulativeLayerNorm`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        up: bool,
        last: bool = False,
        slope: float = 0.2,
        norm_over_time: bool = True,
    ) -> None:
        super().__init__(channels_in, channels_out, up)
        self._last = last
        self.norm: nn.Module = nn.Identity() if last else CumulativeLayerNorm(channels_out, norm_over_time)
        self.activation: nn.Module = nn.Sigmoid() if last else nn.LeakyReLU(slope)

    def forward(self, x: Tensor) -> Tensor:
        if not _fused(x) or any(has_forward_hooks(stage) for stage in (self.conv, self.norm, self.activation)):
            return self.activation(self.norm(super().forward(x)))
        return self.activation(fused.causal_conv(x, self.conv, self.up)) if self._last else fused.causal_block(x, self)

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        state = super().initial_state(batch, frequencies, device)
        if isinstance(self.norm, CumulativeLayerNorm):
            state |= self.norm.initial_state(batch, frequencies, device)
        return state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, new = super().step(x, state)
        if isinstance(self.norm, CumulativeLayerNorm):
            y, sums = self.norm.step(y, state)
            new |= sums
        return self.activation(y), new


class GroupedGru(nn.Module):
    """Disconnected GRUs side by side over flattened channels and frequencies, ``[B, C, T, F]`` in and out.

    Args:
        channels, frequencies: of the input; hidden size is their product.
        groups: number of GRUs.
        slope: of a LeakyReLU after the GRUs; None for none.
    """

    def __init__(self, channels: int, frequencies: int, groups: int = 4, slope: float | None = None) -> None:
        super().__init__()
        self.activation = nn.Identity() if slope is None else nn.LeakyReLU(slope)
        size = channels * frequencies
        if size % groups:
            raise UserError(
                f"channels[-1]={channels}: the bottleneck of {size} units does not divide into gru_groups={groups}"
            )
        self.grus = nn.ModuleList(nn.GRU(size // groups, size // groups, batch_first=True) for _ in range(groups))

    def forward(self, x: Tensor) -> Tensor:
        if not _fused(x) or any(has_forward_hooks(gru) for gru in self.grus):
            return self._run(x, None)[0]
        batch, channels, frames, frequencies = x.shape
        groups = len(self.grus)
        # group g takes its channels' values of all frequencies; the size of a group need not be whole channels
        flat = x.permute(2, 0, 1, 3).reshape(frames, batch, groups, -1)
        y = fused.grouped_gru(self.grus, flat).permute(2, 0, 1, 3).reshape(batch, frames, channels, frequencies)
        return self.activation(y.permute(0, 2, 1, 3).contiguous(memory_format=torch.channels_last))

    def _run(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, channels, frames, frequencies = x.shape
        flat = x.permute(0, 2, 1, 3).reshape(batch, frames, channels * frequencies)
        outs, states = [], []
        for index, (gru, part) in enumerate(zip(self.grus, flat.chunk(len(self.grus), dim=-1), strict=True)):
            start = None if hidden is None else hidden[:, index][None].contiguous()
            out, state = gru(part.contiguous(), start)
            outs.append(out)
            states.append(state[0])
        y = torch.cat(outs, dim=-1).reshape(batch, frames, channels, frequencies).permute(0, 2, 1, 3)
        return self.activation(y.contiguous()), torch.stack(states, dim=1)

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        size = self.grus[0].hidden_size
        assert isinstance(size, int)
        return {"hidden": torch.zeros(batch, len(self.grus), size, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        if x.shape[2] > 1 or type(self.grus[0]) is not nn.GRU:  # (`gru_as_products` wants a matrix a product)
            y, hidden = self._run(x, state["hidden"])
            return y, {"hidden": hidden}
        # one product with the frame and one with the state, for all groups
        ih, hh, bias_ih, bias_hh = (
            torch.stack([getattr(gru, f"{name}_l0") for gru in self.grus])
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden = state["hidden"][:, :, None]
        of_x = x.reshape(hidden.shape) @ ih.transpose(1, 2) + bias_ih[:, None]
        of_h = hidden @ hh.transpose(1, 2) + bias_hh[:, None]
        cut = [2 * hidden.shape[-1], hidden.shape[-1]]
        (x_rz, x_n), (h_rz, h_n) = (part.split(cut, dim=-1) for part in (of_x, of_h))
        r, z = (x_rz + h_rz).sigmoid().chunk(2, dim=-1)
        n = (x_n + r * h_n).tanh()
        hidden = n + z * (hidden - n)
        return self.activation(hidden.reshape(x.shape)), {"hidden": hidden[:, :, 0]}
