"""The short-time Fourier transform all spectral models share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdse.errors import UserError, require_one_of
from kdse.precision import exact, full_precision

#: States of a streaming model that belong to its STFT, not to its network.
HOST_STATES = ("input", "output")


class _Power(torch.autograd.Function):
    """Squared magnitude of a complex tensor; its gradient is one product where autograd would take six passes."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor) -> Tensor:
        ctx.save_for_backward(spectrum)
        return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (spectrum,) = ctx.saved_tensors
        return spectrum * (2 * grad)


def power(spectrum: Tensor) -> Tensor:
    """Squared magnitude of a complex spectrum, of its shape. Not differentiable twice."""
    return _Power.apply(spectrum)


def _padded(x: Tensor, before: int, after: int) -> Tensor:
    """Zeros around the last axis; the tensor itself, which `F.pad` would copy, where there are none."""
    return F.pad(x, (before, after)) if before or after else x


class Stft(nn.Module):
    """Analysis and synthesis with the same window; exact reconstruction; no frame looks further ahead than it must.

    The signal is padded by ``window - hop`` zeros on the left, so frame t covers samples
    ``[(t + 1) hop - W, (t + 1) hop)`` for a window of W samples, and on the right until every sample lies in
    ``K = ceil(W / hop)`` frames. N samples give ``T = ceil(N / hop) + K - 1`` frames (126 for 2 s at 16 kHz with 512
    and 256). Output sample n needs input up to sample n + W - 1 at most. Always computed in float32 (float64 for
    float64 audio), whatever autocast says.

    Args:
        n_fft: length of the Fourier transform in samples.
        hop: samples between frames; at most half the window.
        window: "sqrt_hann" (analysis and synthesis multiply to a Hann window, up to the overlap) or "hann"; the
            synthesis window is the dual one. The two-step paper does not state its window; sqrt_hann is our choice,
            CRUSE's own.
        window_samples: length of the window; None means ``n_fft``. A shorter one is followed by zeros in each frame.
        window_offset: zeros before a shorter window in each frame (the rest follows it).
    """

    window: Tensor
    dual: Tensor

    def __init__(
        self,
        n_fft: int = 512,
        hop: int = 256,
        window: str = "sqrt_hann",
        window_samples: int | None = None,
        window_offset: int = 0,
    ) -> None:
        super().__init__()
        length = n_fft if window_samples is None else window_samples
        if n_fft < 2 or hop < 1 or 2 * hop > length:
            raise UserError(f"n_fft={n_fft}, hop={hop}, window of {length}: hop must be at most half the window")
        if not 0 <= window_offset <= n_fft - length:
            raise UserError(f"window_samples={length}, window_offset={window_offset}: do not fit into n_fft={n_fft}")
        require_one_of("window", window, "sqrt_hann", "hann")
        self.n_fft, self.hop, self.window_samples, self.window_offset = n_fft, hop, length, window_offset
        self.window_name = window
        self.overlap = -(-length // hop)
        with torch.device("cpu"):  # (real values also when a model is built on the meta device)
            analysis = torch.hann_window(length, dtype=torch.float64)
            if window == "sqrt_hann":
                analysis = analysis.sqrt()
            power = F.pad(analysis.square(), (0, self.overlap * hop - length))
            covered = power.reshape(-1, hop).sum(0).repeat(self.overlap)[:length]
        self.register_buffer("window", analysis.float(), persistent=False)
        self.register_buffer("dual", (analysis / covered).float(), persistent=False)

    @property
    def bins(self) -> int:
        """Number of frequency bins."""
        return self.n_fft // 2 + 1

    def frame_count(self, samples: int) -> int:
        """Frames that a signal of so many samples gives."""
        return (samples + self.hop - 1) // self.hop + self.overlap - 1  # (ONNX rounds quotients below 0 the other way)

    def analyse(self, frames: Tensor) -> Tensor:
        """Frames of ``window_samples`` samples ``[..., W]`` to complex bins ``[..., F]``."""
        return torch.fft.rfft(self.windowed(frames))

    def windowed(self, frames: Tensor) -> Tensor:
        """Frames ``[..., W]`` times the window, with the zeros around it: ``[..., n_fft]``."""
        after = self.n_fft - self.window_samples - self.window_offset
        return _padded(frames * self.window, self.window_offset, after)

    def synthesise(self, bins: Tensor) -> Tensor:
        """Complex bins ``[..., F]`` to windowed frames ``[..., W]``, ready to overlap and add.

        By the inverse transform, whose frame is cut to the window. A pseudo-inverse of the one-sided analysis, as the
        authors of DCCRN take it, gives other frames for bins that are no analysis of a real frame; see `Dccrn`.
        """
        frames = torch.fft.irfft(bins, n=self.n_fft)
        return frames[..., self.window_offset : self.window_offset + self.window_samples] * self.dual

    def join(self, real: Tensor, imag: Tensor) -> Tensor:
        """Real and imaginary part ``[..., F]`` as one spectrum. (Exporters put another form of spectrum here.)"""
        return torch.complex(real, imag)

    def forward(self, wave: Tensor) -> Tensor:
        """Wave ``[B, N]`` to complex spectrum ``[B, F, T]``."""
        with full_precision(wave.device):
            wave = exact(wave)
            margin = self.window_samples - self.hop
            tail = self.frame_count(wave.shape[-1]) * self.hop - wave.shape[-1]
            frames = F.pad(wave, (margin, tail)).unfold(-1, self.window_samples, self.hop)
            return self.analyse(frames).transpose(1, 2)

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Complex spectrum ``[B, F, T]`` back to a wave ``[B, length]``."""
        with full_precision(spectrum.device):
            frames = self.synthesise(spectrum.transpose(1, 2))
            if torch.compiler.is_compiling():  # (an export would ask of the slices below whether there is one frame)
                margin = self.window_samples - self.hop
                return self._overlapped(frames)[:, margin : margin + length]
            batch, count, _ = frames.shape
            # zeros complete the window before it, so that the first hop to come out is one that all frames cover
            frames = _padded(frames, self.overlap * self.hop - self.window_samples, 0)
            parts = frames.reshape(batch, count, self.overlap, self.hop)
            last = self.overlap - 1
            wave = parts[:, last:count, 0]
            for i in range(1, self.overlap):
                wave = wave + parts[:, last - i : count - i, i]
            return wave.reshape(batch, -1)[:, :length]

    def _overlapped(self, frames: Tensor) -> Tensor:
        """The sum ``[B, (T + K - 1) hop]`` of frames ``[B, T, W]``, a hop apart."""
        batch, count, _ = frames.shape
        frames = F.pad(frames, (0, self.overlap * self.hop - self.window_samples))
        parts = frames.reshape(batch, count, self.overlap, self.hop)
        total = count + self.overlap - 1
        wave = sum(F.pad(parts[:, :, i], (0, 0, i, total - count - i)) for i in range(self.overlap))
        assert isinstance(wave, Tensor)
        return wave.reshape(batch, -1)

    # --- streaming ---

    def initial_state(self, batch: int, device: torch.device) -> dict[str, Tensor]:
        """What framing and overlap-add carry from hop to hop, zero before the first: ``input`` and ``output``."""
        return {name: torch.zeros(batch, self.window_samples - self.hop, device=device) for name in HOST_STATES}

    def step(
        self, wave: Tensor, state: dict[str, Tensor], network: Callable[[Any, Any], tuple[Any, dict[str, Tensor]]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """T hops ``[B, T hop]`` in, as many out, ``window_samples - hop`` samples late.

        Args:
            wave, state: the hops; that of `initial_state`, and the network's own.
            network: turns the spectrum of T frames ``[B, F, T]`` and the state into the enhanced one and its new state.
        """
        seen = torch.cat([state["input"], wave], dim=-1)
        samples, margin = wave.shape[-1], self.window_samples - self.hop
        if samples == self.hop:  # (with fewer operations, which bind a graph of one hop)
            spectrum, new = network(self.analyse(seen)[:, :, None], state)
            enhanced = self.synthesise(spectrum[:, :, 0])
        else:
            spectrum, new = network(self.analyse(seen.unfold(-1, self.window_samples, self.hop)).transpose(1, 2), state)
            enhanced = self._overlapped(self.synthesise(spectrum.transpose(1, 2)))[:, : samples + margin]
        if samples != margin:
            enhanced = enhanced + F.pad(state["output"], (0, samples))
        ready, rest = enhanced.split([samples, margin], dim=-1)
        if samples == margin:
            ready = ready + state["output"]
        return ready, {"input": seen[:, samples:], "output": rest, **new}
