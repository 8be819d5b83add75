"""Blocks of the UNet on ``[B, C, T, F]``: each halves or doubles the frequency axis, is causal in time, and streams.

`InvertedBottleneck` is MobileNetV2's linear bottleneck (Sandler et al. 2018) with a causal depthwise convolution;
`SeparableBlock` and `PlainBlock` are what it can be exchanged for. No block has a residual connection: MobileNetV2
has them only where resolution and width stay, and here the resolution never does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdse.models.layers import BandConv, CumulativeLayerNorm, NextFrames, State, named

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu6": nn.ReLU6, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU}


class Block(nn.Sequential):
    """Named stages in a row; those that remember frames (`BandConv`, `CumulativeLayerNorm`) have state.

    Args:
        frames: time extent of the convolution that spans frequencies.
        norm: "batch" or "cumulative".
        activation: "relu6", "leaky_relu" or "silu".
    """

    def __init__(self, frames: int = 2, norm: str = "batch", activation: str = "relu6") -> None:
        super().__init__()
        self._frames, self._norm, self._activation = frames, norm, activation

    def _band(self, name: str, channels_in: int, channels_out: int, up: bool, **settings: Any) -> None:
        self.add_module(name, BandConv(channels_in, channels_out, up, self._frames, **settings))

    def _finish(self, name: str, channels: int, end: str = "activation") -> None:
        """Adds the norm and the activation that follow the convolution called ``name``."""
        if end != "bare":
            norm = nn.BatchNorm2d if self._norm == "batch" else CumulativeLayerNorm
            self.add_module(f"{name}_norm", norm(channels))
        if end == "activation":
            self.add_module(f"{name}_activation", ACTIVATIONS[self._activation]())

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        state: State = {}
        for name, stage in self.named_children():
            if isinstance(stage, (BandConv, CumulativeLayerNorm)):
                state |= named(name, stage.initial_state(batch, frequencies, device))
        return state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        run = NextFrames(state)
        for name, stage in self.named_children():
            x = run(name, stage, x) if isinstance(stage, (BandConv, CumulativeLayerNorm)) else stage(x)
        return x, run.new


class InvertedBottleneck(Block):
    """1x1 expansion -> causal depthwise convolution -> 1x1 projection; each has a norm, the first two an activation.

    The projection is linear: no activation follows it. The expanded width is ``expansion`` times the wider side of
    the block. MobileNetV2 multiplies the input's width; the wider side is our choice, because the first block's input
    has a single channel, whose few multiples would hold back everything after it.

    ``up`` doubles the frequency axis instead of halving it; ``end`` "bare" leaves out the projection's norm and gives
    it a bias, anything else is the same here; further settings are `Block`'s.
    """

    def __init__(
        self, channels_in: int, channels_out: int, up: bool, expansion: int = 4, end: str = "linear", **settings: Any
    ) -> None:
        super().__init__(**settings)
        hidden = expansion * max(channels_in, channels_out)
        self.add_module("expand", nn.Conv2d(channels_in, hidden, 1, bias=False))
        self._finish("expand", hidden)
        self._band("depthwise", hidden, hidden, up, groups=hidden, bias=False)
        self._finish("depthwise", hidden)
        self.add_module("project", nn.Conv2d(hidden, channels_out, 1, bias=end == "bare"))
        self._finish("project", channels_out, "bare" if end == "bare" else "linear")


class SeparableBlock(Block):
    """Causal depthwise convolution -> 1x1 convolution, each with norm and activation (MobileNet's block).

    A single input channel (the spectrogram) is spread over ``channels_out`` by the depthwise convolution; one filter
    would hold back everything after it (our choice, MobileNet starts with a full convolution).

    ``up`` doubles the frequency axis instead of halving it; ``end`` "linear" leaves out the last activation, "bare" the
    last norm too; further settings are `Block`'s.
    """

    def __init__(self, channels_in: int, channels_out: int, up: bool, end: str = "activation", **settings: Any) -> None:
        super().__init__(**settings)
        hidden = channels_out if channels_in == 1 else channels_in
        self._band("depthwise", channels_in, hidden, up, groups=channels_in, bias=False)
        self._finish("depthwise", hidden)
        self.add_module("project", nn.Conv2d(hidden, channels_out, 1, bias=end == "bare"))
        self._finish("project", channels_out, end)


class PlainBlock(Block):
    """Full causal convolution, norm, activation. Arguments as `SeparableBlock`."""

    def __init__(self, channels_in: int, channels_out: int, up: bool, end: str = "activation", **settings: Any) -> None:
        super().__init__(**settings)
        self._band("full", channels_in, channels_out, up, bias=end == "bare")
        self._finish("full", channels_out, end)
