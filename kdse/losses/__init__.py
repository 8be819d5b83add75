"""Supervised losses: pure functions and a module each, ``module(estimate, clean [B, N], noisy [B, N]) -> scalar``."""

from kdse.losses.compressed_spectral import CompressedSpectral, compressed_spectral_loss
from kdse.losses.manner import MannerLoss, manner_loss
from kdse.losses.multi_resolution import MultiResolutionStft
from kdse.losses.phase_sensitive import PhaseSensitive, phase_sensitive_loss
from kdse.losses.si_sdr import SiSdr, si_sdr
from kdse.losses.weighted_sum import WeightedSum

__all__ = [
    "CompressedSpectral",
    "MannerLoss",
    "MultiResolutionStft",
    "PhaseSensitive",
    "SiSdr",
    "WeightedSum",
    "compressed_spectral_loss",
    "manner_loss",
    "phase_sensitive_loss",
    "si_sdr",
]
