"""Mixing as pure functions: what is added to what, at which SNR and level."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from kdse.audio.levels import measured_snr_db, rms_db

PEAK = 0.99


class Mixture(NamedTuple):
    """A mixture and its components, all ``[N]``: noisy = speech + noise; clean is the training target.

    clean equals speech without reverberation, and its early part with it. snr_db is that of speech over noise as
    requested, or NaN where one of them is silent.
    """

    noisy: Tensor
    clean: Tensor
    speech: Tensor
    noise: Tensor
    snr_db: float


def mix(
    speech: Tensor,
    noise: Tensor,
    snr_db: float,
    definition: str = "rms",
    sample_rate_hz: int = 16000,
    level_dbfs: float | None = None,
    clean: Tensor | None = None,
) -> Mixture:
    """Adds noise to speech at a requested SNR; everything is then scaled together.

    Args:
        speech: ``[N]``, reverberant if it is to be.
        noise: ``[N]``.
        snr_db: requested SNR between speech and noise.
        definition: of level: "rms", "active" or "lufs".
        sample_rate_hz: rate of both.
        level_dbfs: RMS level of the mixture; None keeps the speech's own level.
        clean: the target ``[N]`` if it is not the speech itself (its early part, say).

    A mixture whose peak would pass 0.99 is turned down as a whole: nothing clips and the SNR stays. Silent speech or
    noise has no SNR: then the components are added as they are.
    """
    gap_db = measured_snr_db(speech, noise, definition, sample_rate_hz)
    defined = math.isfinite(gap_db)
    noise_gain = 10 ** ((gap_db - snr_db) / 20) if defined else 1.0
    unscaled = speech + noise * noise_gain
    gain = 1.0
    current_db = rms_db(unscaled)
    if level_dbfs is not None and math.isfinite(current_db):
        gain = 10 ** ((level_dbfs - current_db) / 20)
    peak = max(float(wave.abs().max()) if wave.numel() else 0.0 for wave in (unscaled, clean) if wave is not None)
    if peak * gain > PEAK:
        gain = PEAK / peak
    speech, noise = speech * gain, noise * (noise_gain * gain)
    target = speech if clean is None else clean * gain
    return Mixture(speech + noise, target, speech, noise, snr_db if defined else math.nan)
