"""Multi-resolution STFT loss (Yamamoto, Song & Kim, ICASSP 2020, Parallel WaveGAN)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.base import Estimate
from kdse.models.stft import power
from kdse.precision import exact, full_precision

FLOOR = 1e-7


def stft_magnitude(wave: Tensor, n_fft: int, hop: int, window: Tensor) -> Tensor:
    """Magnitudes ``[B, F, T]`` of a wave ``[B, N]``, centred frames, floored so that the gradient stays finite."""
    spectrum = torch.stft(
        wave, n_fft, hop, window.numel(), window, center=True, pad_mode="constant", return_complex=True
    )
    return power(spectrum).clamp_min(FLOOR).sqrt()


def spectral_convergence(estimate: Tensor, clean: Tensor) -> Tensor:
    """``|| |S| - |S^| ||_F / || |S| ||_F`` of magnitudes ``[B, F, T]``, one value an item ``[B]``."""
    gap = torch.linalg.vector_norm(clean - estimate, dim=(1, 2))
    return gap / torch.linalg.vector_norm(clean, dim=(1, 2))


def log_magnitude_distance(estimate: Tensor, clean: Tensor) -> Tensor:
    """Mean absolute difference of log magnitudes (natural logarithm), one value an item ``[B]``."""
    return (clean.log() - estimate.log()).abs().mean((1, 2))


def check_resolutions(n_ffts: list[int], hops: list[int], windows: list[int]) -> None:
    """Raises a ValueError unless there are equally many of each and every window fits into its transform."""
    if not n_ffts or not len(n_ffts) == len(hops) == len(windows):
        raise UserError(f"n_ffts={n_ffts}, hops={hops}, windows={windows}: give equally many, at least one")
    if any(window > n_fft for window, n_fft in zip(windows, n_ffts, strict=True)):
        raise UserError(f"windows={windows}: a window is at most as long as its transform {n_ffts}")


class MultiResolutionStft(nn.Module):
    """Spectral convergence plus log-magnitude distance, averaged over STFT resolutions.

    Args:
        n_ffts: transform lengths in samples; the published triple by default.
        hops: samples between frames, one a transform.
        windows: Hann window lengths, one a transform.
        convergence_weight: factor on the spectral convergence.
        magnitude_weight: factor on the log-magnitude distance.
    """

    def __init__(
        self,
        n_ffts: list[int] = [512, 1024, 2048],  # noqa: B006 (jsonargparse shows it in --help)
        hops: list[int] = [50, 120, 240],  # noqa: B006
        windows: list[int] = [240, 600, 1200],  # noqa: B006
        convergence_weight: float = 1.0,
        magnitude_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_resolutions(n_ffts, hops, windows)
        self.n_ffts, self.hops = list(n_ffts), list(hops)
        self.convergence_weight, self.magnitude_weight = convergence_weight, magnitude_weight
        for index, length in enumerate(windows):
            self.register_buffer(f"window{index}", torch.hann_window(length), persistent=False)

    def forward(self, estimate: Estimate, clean: Tensor, noisy: Tensor) -> Tensor:
        with full_precision(noisy.device):
            total = exact(noisy.new_zeros(()))
            for index, (n_fft, hop) in enumerate(zip(self.n_ffts, self.hops, strict=True)):
                window = getattr(self, f"window{index}")
                ours = stft_magnitude(exact(estimate.waveform), n_fft, hop, window)
                target = stft_magnitude(exact(clean), n_fft, hop, window)
                total = total + self.convergence_weight * spectral_convergence(ours, target).mean()
                total = total + self.magnitude_weight * log_magnitude_distance(ours, target).mean()
            return total / len(self.n_ffts)
