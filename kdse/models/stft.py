"""The short-time Fourier transform all spectral models share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stft(nn.Module):
    """Analysis and synthesis with the same window; exact reconstruction; no frame looks further ahead than it must.

    The signal is padded by ``n_fft - hop`` zeros on the left, so frame t covers samples
    ``[(t + 1) hop - n_fft, (t + 1) hop)``, and on the right to whole hops plus ``n_fft - hop``. N samples give
    ``T = ceil(N / hop) + n_fft / hop - 1`` frames (126 for 2 s at 16 kHz with 512 and 256). Output sample n needs
    input up to sample n + n_fft - 1 at most. Always computed in float32, whatever autocast says.

    Args:
        n_fft: frame length in samples.
        hop: samples between frames; must divide n_fft at least twice.
        window: "sqrt_hann" (analysis and synthesis multiply to a Hann window) or "hann" (the synthesis window is the
            dual one). The two-step paper does not state its window; sqrt_hann is our choice, CRUSE's own.
    """

    window: Tensor
    dual: Tensor

    def __init__(self, n_fft: int = 512, hop: int = 256, window: str = "sqrt_hann") -> None:
        super().__init__()
        if n_fft < 2 or hop < 1 or n_fft % hop or n_fft // hop < 2:
            raise ValueError(f"n_fft={n_fft}, hop={hop}: hop must divide n_fft at least twice")
        if window not in ("sqrt_hann", "hann"):
            raise ValueError(f'window={window!r}: use "sqrt_hann" or "hann"')
        self.n_fft, self.hop = n_fft, hop
        analysis = torch.hann_window(n_fft, dtype=torch.float64)
        if window == "sqrt_hann":
            analysis = analysis.sqrt()
        overlap = analysis.square().reshape(-1, hop).sum(0).repeat(n_fft // hop)
        self.register_buffer("window", analysis.float(), persistent=False)
        self.register_buffer("dual", (analysis / overlap).float(), persistent=False)

    @property
    def bins(self) -> int:
        """Number of frequency bins."""
        return self.n_fft // 2 + 1

    def frame_count(self, samples: int) -> int:
        """Frames that a signal of so many samples gives."""
        return -(-samples // self.hop) + self.n_fft // self.hop - 1

    def forward(self, wave: Tensor) -> Tensor:
        """Wave ``[B, N]`` to complex spectrum ``[B, F, T]``."""
        with torch.autocast(wave.device.type, enabled=False):
            margin = self.n_fft - self.hop
            tail = -wave.shape[-1] % self.hop
            frames = F.pad(wave.float(), (margin, tail + margin)).unfold(-1, self.n_fft, self.hop)
            return torch.fft.rfft(frames * self.window).transpose(1, 2)

    def inverse(self, spectrum: Tensor, length: int) -> Tensor:
        """Complex spectrum ``[B, F, T]`` back to a wave ``[B, length]``."""
        with torch.autocast(spectrum.device.type, enabled=False):
            frames = torch.fft.irfft(spectrum.transpose(1, 2), n=self.n_fft) * self.dual
            batch, count, _ = frames.shape
            parts = frames.reshape(batch, count, -1, self.hop)
            total = count + parts.shape[2] - 1
            wave = sum(F.pad(parts[:, :, i], (0, 0, i, total - count - i)) for i in range(parts.shape[2]))
            assert isinstance(wave, Tensor)
            margin = self.n_fft - self.hop
            return wave.reshape(batch, -1)[:, margin : margin + length]
