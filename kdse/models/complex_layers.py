"""Complex-valued layers on real tensors ``[B, C, T, F]``: the first C / 2 channels are real parts, the rest imaginary.

All follow the rules of deep complex networks (Trabelsi et al., ICLR 2018) as DCCRN's published code applies them
(Hu et al., Interspeech 2020): a complex layer is two real ones, W = W_r + j W_i, and
``W * x = (W_r x_r - W_i x_i) + j (W_r x_i + W_i x_r)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdse.models.layers import State, band_conv
from kdse.precision import exact


def split(x: Tensor) -> Tensor:
    """``[B, C, T, F]`` to ``[2 B, C / 2, T, F]``: the batch's real parts, then its imaginary ones."""
    return torch.cat(x.chunk(2, dim=1))


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """``[2 B, ...]`` to twice ``[B, ...]``, without a computation on B (exporters know B only as a symbol)."""
    first, second = x.unflatten(0, (2, -1)).unbind()
    return first, second


def combine(by_real: Tensor, by_imaginary: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary result ``[B, ...]`` of a complex layer whose two real layers ran on `split` input."""
    real_of_real, real_of_imaginary = halves(by_real)
    imaginary_of_real, imaginary_of_imaginary = halves(by_imaginary)
    return real_of_real - imaginary_of_imaginary, real_of_imaginary + imaginary_of_real


def concatenate(x: Tensor, y: Tensor) -> Tensor:
    """Joins two complex tensors ``[B, C, T, F]`` on the channels: real parts together, imaginary parts together."""
    (x_real, x_imaginary), (y_real, y_imaginary) = x.chunk(2, dim=1), y.chunk(2, dim=1)
    return torch.cat([x_real, y_real, x_imaginary, y_imaginary], dim=1)


class ComplexConv(nn.Module):
    """Complex convolution over 2 frames and 5 frequencies, stride 2 in frequency, no padding in time.

    T frames give T - 1, F frequencies F / 2. With ``up`` it is the transposed convolution: T + 1 and 2 F. Channels
    count real and imaginary parts and are even. Weights start from N(0, 0.05^2) and biases from zero, as in DCCRN's
    code.
    """

    def __init__(self, channels_in: int, channels_out: int, up: bool) -> None:
        super().__init__()
        self.real, self.imaginary = (band_conv(channels_in // 2, channels_out // 2, up, width=5) for _ in range(2))
        for conv in (self.real, self.imaginary):
            nn.init.normal_(conv.weight, std=0.05)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        both = split(x)
        return torch.cat(combine(self.real(both), self.imaginary(both)), dim=1)


class ComplexBatchNorm(nn.Module):
    """Batch norm of complex channels (Trabelsi et al., section 3.5): centre, whiten real and imaginary part together
    by the inverse square root of their 2 x 2 covariance, scale by a symmetric 2 x 2 matrix, shift.

    Five parameters a complex channel. Gains start from ``[[1, 0], [0, 1]] / sqrt(2)`` as in that paper. Statistics
    are over batch, frames and frequencies, in float32; running ones serve in eval mode. ``eps`` is added to both
    variances.
    """

    running_mean: Tensor
    running_covariance: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        size = channels // 2
        start = torch.tensor([0.5**0.5, 0.0, 0.5**0.5])[:, None]
        self.gain = nn.Parameter(start.repeat(1, size))  # real-real, real-imaginary, imaginary-imaginary
        self.bias = nn.Parameter(torch.zeros(2, size))
        self.register_buffer("running_mean", torch.zeros(2, size))
        self.register_buffer("running_covariance", torch.tensor([1.0, 0.0, 1.0])[:, None].repeat(1, size))

    def forward(self, x: Tensor) -> Tensor:
        real, imaginary = exact(x).chunk(2, dim=1)
        mean, covariance = self._statistics(real, imaginary)
        centred_real, centred_imaginary = real - _per_channel(mean[0]), imaginary - _per_channel(mean[1])
        rr, ri, ir, ii = (_per_channel(m) for m in self._matrix(covariance))
        shift_real, shift_imaginary = _per_channel(self.bias[0]), _per_channel(self.bias[1])
        y_real = rr * centred_real + ri * centred_imaginary + shift_real
        y_imaginary = ir * centred_real + ii * centred_imaginary + shift_imaginary
        return torch.cat([y_real, y_imaginary], dim=1).to(x.dtype)

    def _statistics(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.running_mean, self.running_covariance
        axes = (0, 2, 3)
        mean = torch.stack([real.mean(axes), imaginary.mean(axes)])
        real, imaginary = real - _per_channel(mean[0]), imaginary - _per_channel(mean[1])
        products = (real.square(), real * imaginary, imaginary.square())
        covariance = torch.stack([product.mean(axes) for product in products])
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_covariance.lerp_(covariance.to(self.running_covariance.dtype), self.momentum)
        return mean, covariance

    def _matrix(self, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gain times whitening matrix, entries (rr, ri, ir, ii), each ``[C / 2]``."""
        v_rr, v_ri, v_ii = covariance[0] + self.eps, covariance[1], covariance[2] + self.eps
        # sqrt(V) of a 2 x 2 matrix in closed form; rounding may push the determinant below what eps guarantees
        root = (v_rr * v_ii - v_ri.square()).clamp_min(self.eps**2).sqrt()
        scale = 1 / (root * (v_rr + v_ii + 2 * root).sqrt())
        w_rr, w_ri, w_ii = (v_ii + root) * scale, -v_ri * scale, (v_rr + root) * scale
        g_rr, g_ri, g_ii = self.gain
        return (
            g_rr * w_rr + g_ri * w_ri,
            g_rr * w_ri + g_ri * w_ii,
            g_ri * w_rr + g_ii * w_ri,
            g_ri * w_ri + g_ii * w_ii,
        )


def _per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]


class RealLstm(nn.Module):
    """LSTM over flattened channels and frequencies and a linear layer back, ``[B, C, T, F]`` in and out."""

    def __init__(self, channels: int, frequencies: int, units: int, layers: int) -> None:
        super().__init__()
        size = channels * frequencies
        self.lstm = nn.LSTM(size, units, layers, batch_first=True)
        self.linear = nn.Linear(units, size)

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, None)[0]

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        start = None
        if state is not None:
            start = (state["hidden"].transpose(0, 1).contiguous(), state["cell"].transpose(0, 1).contiguous())
        y, (hidden, cell) = self.lstm(_flatten(x), start)
        y = _unflatten(self.linear(y), x.shape[1])
        return y, {"hidden": hidden.transpose(0, 1), "cell": cell.transpose(0, 1)}

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        zeros = torch.zeros(batch, self.lstm.num_layers, self.lstm.hidden_size, device=device)
        return {"hidden": zeros, "cell": zeros.clone()}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self._run(x, state)


class ComplexLstm(nn.Module):
    """Complex LSTM layers over flattened channels and frequencies and two linear layers back (DCCRN-CL).

    Each complex layer is two real LSTMs of ``units // 2``; real and imaginary part have a linear layer each.
    """

    def __init__(self, channels: int, frequencies: int, units: int, layers: int) -> None:
        super().__init__()
        size = channels // 2 * frequencies
        inputs = [size, *[units // 2] * (layers - 1)]
        self.real = nn.ModuleList(nn.LSTM(n, units // 2, batch_first=True) for n in inputs)
        self.imaginary = nn.ModuleList(nn.LSTM(n, units // 2, batch_first=True) for n in inputs)
        self.linear = nn.ModuleList(nn.Linear(units // 2, size) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, None)[0]

    def _run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        both = _flatten(split(x))
        ends: list[tuple[Tensor, Tensor]] = []
        for layer, pair in enumerate(zip(self.real, self.imaginary, strict=True)):
            outs = []
            for part, lstm in enumerate(pair):
                out, end = lstm(both, None if state is None else _start(state, 2 * layer + part))
                outs.append(out)
                ends.append(end)
            both = torch.cat(combine(outs[0], outs[1]))
        parts = [_unflatten(f(y), x.shape[1] // 2) for f, y in zip(self.linear, halves(both), strict=True)]
        stacked = [torch.stack([end[i][0] for end in ends], dim=1) for i in range(2)]  # [2 B, 2 layers, units // 2]
        hidden, cell = (torch.stack(halves(s), dim=1) for s in stacked)
        return torch.cat(parts, dim=1), {"hidden": hidden, "cell": cell}

    def initial_state(self, batch: int, frequencies: int, device: torch.device) -> State:
        """``[B, 2, 2 layers, units // 2]``: real and imaginary input, then the layers' LSTMs in order."""
        units = self.real[0].hidden_size
        assert isinstance(units, int)
        zeros = torch.zeros(batch, 2, 2 * len(self.real), units, device=device)
        return {"hidden": zeros, "cell": zeros.clone()}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return self._run(x, state)


def _start(state: State, index: int) -> tuple[Tensor, Tensor]:
    """Hidden and cell state ``[1, 2 B, units]`` of one LSTM of a `ComplexLstm`."""
    hidden, cell = (torch.cat(state[key][:, :, index].unbind(1))[None].contiguous() for key in ("hidden", "cell"))
    return hidden, cell


def _flatten(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _unflatten(y: Tensor, channels: int) -> Tensor:
    return y.unflatten(2, (channels, -1)).transpose(1, 2).contiguous()
