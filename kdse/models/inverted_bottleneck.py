"""Blocks of the UNet on ``[B, C, T, F]``: each halves or doubles the frequency axis, is causal in time, and streams.

`InvertedBottleneck` is MobileNetV2's linear bottleneck (Sandler et al. 2018) with a causal depthwise convolution;
`SeparableBlock` and `PlainBlock` are what it can be exchanged for. No block has a residual connection: MobileNetV2
has them only where resolution and width stay, and here the resolution never does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.models.layers import CumulativeLayerNorm, State

NORMS = ("batch", "cumulative")
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU}


class CausalConv(nn.Module):
    """Convolution (K frames, 3 frequencies, stride 2 in frequency); with ``up`` the mirrored transposed one.

    Frame t sees frames t - K + 1 to t; frames before the first are zeros.

    Args:
        channels_in, channels_out: widths.
        frames: K.
        up: double the frequency axis instead of halving it.
        groups: of the convolution; ``channels_in`` makes it depthwise.
        bias: add one.
    """

    def __init__(
        self, channels_in: int, channels_out: int, frames: int, up: bool, groups: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.channels_in, self.frames, self.up = channels_in, frames, up
        shared: dict[str, Any] = {"stride": (1, 2), "padding": (0, 1), "groups": groups, "bias": bias}
        self.conv: nn.Module
        if up:
            self.conv = nn.ConvTranspose2d(channels_in, channels_out, (frames, 3), output_padding=(0, 1), **shared)
        else:
            self.conv = nn.Conv2d(channels_in, channels_out, (frames, 3), **shared)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, : x.shape[2]] if self.up else self.conv(F.pad(x, (0, 0, self.frames - 1, 0)))

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        return {"past": torch.zeros(batch, self.channels_in, self.frames - 1, frequencies, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame ``[B, C, 1, F]``."""
        seen = torch.cat([state["past"], x], dim=2)
        y = self.conv(seen)
        return y[:, :, self.frames - 1 : self.frames] if self.up else y, {"past": seen[:, :, 1:]}


class Block(nn.Sequential):
    """Named stages in a row; those that remember frames (`CausalConv`, `CumulativeLayerNorm`) have state."""

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        """State before the first frame; ``frequencies`` is the input's F."""
        state: State = {}
        for name, stage in self.named_children():
            if isinstance(stage, CausalConv):
                own = stage.initial_state(batch, frequencies, device)
            elif isinstance(stage, CumulativeLayerNorm):
                own = stage.initial_state(batch, device)
            else:
                continue
            state |= {f"{name}.{key}": value for key, value in own.items()}
        return state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame ``[B, C, 1, F]``."""
        new: State = {}
        for name, stage in self.named_children():
            if isinstance(stage, (CausalConv, CumulativeLayerNorm)):
                own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
                x, after = stage.step(x, own)
                new |= {f"{name}.{key}": value for key, value in after.items()}
            else:
                x = stage(x)
        return x, new

    def _finish(self, name: str, channels: int, norm: str, activation: str, end: str = "activation") -> None:
        """Adds the norm and the activation that follow the convolution called ``name``."""
        if end != "bare":
            self.add_module(f"{name}_norm", _norm(norm, channels))
        if end == "activation":
            self.add_module(f"{name}_activation", ACTIVATIONS[activation]())


class InvertedBottleneck(Block):
    """1x1 expansion -> causal depthwise convolution -> 1x1 projection; each has a norm, the first two an activation.

    The projection is linear: no activation follows it. The expanded width is ``expansion`` times the wider side of
    the block. MobileNetV2 multiplies the input's width; the wider side is our choice, because the first block's input
    has a single channel, whose few multiples would hold back everything after it.

    Args:
        channels_in, channels_out: widths.
        up: double the frequency axis instead of halving it.
        expansion: factor of the expanded width.
        frames: time extent of the depthwise convolution.
        norm: "batch" or "cumulative".
        activation: "relu6", "leaky_relu" or "silu".
        end: "bare" leaves out the projection's norm and gives it a bias; anything else is the same here.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        up: bool,
        expansion: int = 4,
        frames: int = 2,
        norm: str = "batch",
        activation: str = "relu6",
        end: str = "linear",
    ) -> None:
        super().__init__()
        hidden = expansion * max(channels_in, channels_out)
        self.add_module("expand", nn.Conv2d(channels_in, hidden, 1, bias=False))
        self._finish("expand", hidden, norm, activation)
        self.add_module("depthwise", CausalConv(hidden, hidden, frames, up, groups=hidden))
        self._finish("depthwise", hidden, norm, activation)
        self.add_module("project", nn.Conv2d(hidden, channels_out, 1, bias=end == "bare"))
        self._finish("project", channels_out, norm, activation, "bare" if end == "bare" else "linear")


class SeparableBlock(Block):
    """Causal depthwise convolution -> 1x1 convolution, each with norm and activation (MobileNet's block).

    A single input channel (the spectrogram) is spread over ``channels_out`` by the depthwise convolution; one filter
    would hold back everything after it (our choice, MobileNet starts with a full convolution).

    Args:
        channels_in, channels_out: widths.
        up: double the frequency axis instead of halving it.
        frames: time extent of the depthwise convolution.
        norm: "batch" or "cumulative".
        activation: "relu6", "leaky_relu" or "silu".
        end: "activation"; "linear" leaves out the last activation, "bare" the last norm too.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        up: bool,
        frames: int = 2,
        norm: str = "batch",
        activation: str = "relu6",
        end: str = "activation",
    ) -> None:
        super().__init__()
        hidden = channels_out if channels_in == 1 else channels_in
        self.add_module("depthwise", CausalConv(channels_in, hidden, frames, up, groups=channels_in))
        self._finish("depthwise", hidden, norm, activation)
        self.add_module("project", nn.Conv2d(hidden, channels_out, 1, bias=end == "bare"))
        self._finish("project", channels_out, norm, activation, end)


class PlainBlock(Block):
    """Full causal convolution, norm, activation. Arguments as `SeparableBlock`."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        up: bool,
        frames: int = 2,
        norm: str = "batch",
        activation: str = "relu6",
        end: str = "activation",
    ) -> None:
        super().__init__()
        self.add_module("full", CausalConv(channels_in, channels_out, frames, up, bias=end == "bare"))
        self._finish("full", channels_out, norm, activation, end)


def _norm(norm: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else CumulativeLayerNorm(channels)
