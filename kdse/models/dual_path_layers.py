"""Layers that GTCRN and UL-UNAS share: bands, causal convolutions, gates by attention, grouped dual-path recurrence.

Written from the papers (GTCRN: Rong et al., ICASSP 2024; UL-UNAS: Rong et al., arXiv 2503.00340) and from the shapes of
their published weights. Networks work on ``[B, C, T, F]`` where F counts bands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.internals.torch import has_forward_hooks
from kdse.models.fused import grouped_gru
from kdse.models.layers import CausalConv, State, _fused


class ErbBands(nn.Module):
    """Bins to bands and back: the lowest bins stay as they are, those above are merged into fewer bands.

    Band centres are evenly spaced on the scale of equivalent rectangular bandwidths (Glasberg and Moore 1990), from the
    first merged bin to the Nyquist frequency, and rounded to bins. A bin between two centres belongs to both bands, in
    proportion to its distances, so the filters of a bin sum to one. Fixed, not trained.

    Args:
        n_fft: points of the transform, for ``n_fft / 2 + 1`` bins.
        linear_bins: lowest bins, which are kept.
        erb_bands: bands for the others.
        sample_rate_hz: of the signal.
    """

    filters: Tensor

    def __init__(self, n_fft: int, linear_bins: int, erb_bands: int, sample_rate_hz: int) -> None:
        super().__init__()
        bin_hz, last = sample_rate_hz / n_fft, n_fft // 2
        first_erb, last_erb = 21.4 * np.log10(1 + 0.00437 * bin_hz * np.array([linear_bins, last]))
        hz = (10 ** (np.linspace(first_erb, last_erb, erb_bands) / 21.4) - 1) / 0.00437
        centres = np.round(hz / bin_hz)
        if not 0 < linear_bins < last or len(set(centres)) < erb_bands:
            raise UserError(
                f"linear_bins={linear_bins}, erb_bands={erb_bands}: too many for the {last + 1} bins of n_fft={n_fft}"
            )
        self.linear_bins, self.count = linear_bins, linear_bins + erb_bands
        bins = np.arange(linear_bins, last + 1)
        filters = np.stack([np.interp(bins, centres, one) for one in np.eye(erb_bands)], axis=1)
        with torch.device("cpu"):  # real values also when the model itself is built on the meta device
            self.register_buffer("filters", torch.tensor(filters, dtype=torch.float32), persistent=False)

    def merge(self, x: Tensor) -> Tensor:
        """Bins ``[..., F]`` to bands; those of an ERB band are summed by their weights."""
        return torch.cat([x[..., : self.linear_bins], x[..., self.linear_bins :] @ self.filters], dim=-1)

    def split(self, x: Tensor) -> Tensor:
        """Bands to bins ``[..., F]``; ones give ones."""
        return torch.cat([x[..., : self.linear_bins], x[..., self.linear_bins :] @ self.filters.t()], dim=-1)


def band_conv(
    channels_in: int,
    channels_out: int,
    width: int,
    frames: int = 1,
    groups: int = 1,
    stride: int = 1,
    up: bool = False,
    dilation: int = 1,
) -> CausalConv:
    """A causal convolution over ``width`` bands (odd): F bands give ``(F - 1) / stride + 1``, or back with ``up``.

    Of stride 1 both directions are a plain convolution: the transposed one is it with its kernel mirrored.

    Args:
        channels_in, channels_out, groups: as of `torch.nn.Conv2d`.
        width, frames: size of the kernel.
        stride: over bands.
        up: multiplies the bands instead of dividing them.
        dilation: frames from one row of the kernel to the next.
    """
    transposed = up and stride > 1
    kind = nn.ConvTranspose2d if transposed else DilatedConv if dilation > 1 else nn.Conv2d
    settings: dict[str, Any] = {
        "stride": (1, stride),
        "padding": (0, width // 2),
        "groups": groups,
        "dilation": (dilation, 1),
    }
    conv = kind(channels_in, channels_out, (frames, width), **settings)
    causal = CausalConv(conv, channels_in, transposed, (frames - 1) * dilation + 1)
    if dilation > 1:
        causal.conv.to(memory_format=torch.contiguous_format)
    return causal


class DilatedConv(nn.Conv2d):
    """A convolution with rows side by side in memory, of its input and its weights.

    With channels side by side, a grouped and dilated one in bfloat16 ends the process on a CPU in the backward pass
    (PyTorch 2.14, oneDNN).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


class Interleave(nn.Module):
    """Two halves of the channels, one of each in turn (channel shuffle), so that groups of channels mix."""

    def forward(self, x: Tensor) -> Tensor:
        return interleaved(*x.chunk(2, dim=1))


def interleaved(first: Tensor, second: Tensor) -> Tensor:
    """Channels of two tensors ``[B, C, T, F]`` in turn, ``[B, 2 C, T, F]``."""
    return torch.stack([first, second], dim=2).flatten(1, 2)


class RecurrentGate(nn.Module):
    """A gain in (0, 1) a channel and frame, from a GRU over frames that is fed each channel's energy.

    The temporal recurrent attention of GTCRN; with ``band_group`` the causal time-frequency attention of UL-UNAS, which
    has a gain a band and frame too (`BandGate`).
    """

    def __init__(self, channels: int, band_group: int = 0) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, 2 * channels, batch_first=True)
        self.linear = nn.Linear(2 * channels, channels)
        self.bands = BandGate(band_group) if band_group else None

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, None)[0]

    def _run(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        energy = x.square()
        seen, hidden = over_frames(self.gru, energy.mean(3).transpose(1, 2), hidden)
        x = x * self.linear(seen).sigmoid().transpose(1, 2)[..., None]
        return x if self.bands is None else x * self.bands(energy.mean(1))[:, None], hidden

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        return {"hidden": torch.zeros(batch, self.linear.in_features, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, hidden = self._run(x, state["hidden"][None])
        return y, {"hidden": hidden[0]}


def over_frames(gru: nn.Module, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """A GRU of one direction over ``[B, T, C]``, by `kdse.models.fused` where that may run: output and last state."""
    if hidden is not None or not _fused(x) or has_forward_hooks(gru):
        y, hidden = gru(x, hidden)
        return y, hidden
    y = grouped_gru(nn.ModuleList([gru]), x.transpose(0, 1)[:, :, None])[:, 0].transpose(0, 1)
    return y, y[:, -1][None]


class BandGate(nn.Module):
    """A gain in (0, 1) a band and frame, from the energies of that frame: a GRU up and down the bands.

    Args:
        group: neighbouring bands that the GRU takes in one step; the last group is filled up with zeros.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group
        self.gru = nn.GRU(group, group, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * group, group)

    def forward(self, energy: Tensor) -> Tensor:
        """Energies ``[B, T, F]`` to gains of the same shape."""
        batch, frames, bands = energy.shape
        groups = F.pad(energy, (0, -bands % self.group)).reshape(batch * frames, -1, self.group)
        gains = self.linear(self.gru(groups)[0]).sigmoid()
        return gains.reshape(batch, frames, -1)[..., :bands]


class GroupedPath(nn.Module):
    """Two GRUs, each over half of the channels, along one axis of ``[B, T, F, C]``; linear layer, layer norm, sum.

    Args:
        channels: C, an even number; a multiple of 4 along bands.
        bands: F. The norm has a weight for each of its bands and channels, and is over both of a frame.
        along_bands: the GRUs run up and down the bands of each frame, instead of over the frames of each band.
    """

    def __init__(self, channels: int, bands: int, along_bands: bool) -> None:
        super().__init__()
        half, self.along_bands = channels // 2, along_bands
        hidden = half // 2 if along_bands else half
        self.grus = nn.ModuleList(nn.GRU(half, hidden, batch_first=True, bidirectional=along_bands) for _ in range(2))
        self.linear = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm((bands, channels), eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, None)[0]

    def run(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """With the states ``[B, F, 2, C / 2]`` over frames, before and after; zeros before for None."""
        rows = x if self.along_bands else x.transpose(1, 2)
        outputs, states = [], []
        for index, (gru, part) in enumerate(zip(self.grus, rows.flatten(0, 1).chunk(2, dim=-1), strict=True)):
            start = None if hidden is None else hidden[:, :, index].flatten(0, 1)[None]
            y, state = gru(part) if self.along_bands else over_frames(gru, part, start)
            outputs.append(y)
            states.append(state[0].unflatten(0, rows.shape[:2]))
        y = self.linear(torch.cat(outputs, dim=-1)).unflatten(0, rows.shape[:2])
        y = y if self.along_bands else y.transpose(1, 2)
        return x + self.norm(y), torch.stack(states, dim=2)


class DualPath(nn.Module):
    """Grouped dual-path recurrence on ``[B, C, T, F]``: a path along the bands of a frame, then one over frames."""

    def __init__(self, channels: int, bands: int) -> None:
        super().__init__()
        self.bands = GroupedPath(channels, bands, along_bands=True)
        self.frames = GroupedPath(channels, bands, along_bands=False)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.frames(self.bands(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        return {"hidden": torch.zeros(batch, frequencies, 2, self.channels // 2, device=device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, hidden = self.frames.run(self.bands(x.permute(0, 2, 3, 1)), state["hidden"])
        return y.permute(0, 3, 1, 2), {"hidden": hidden}
