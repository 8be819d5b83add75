"""Mixing as pure functions: what is added to what, at which SNR and level."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kdse.audio.levels import measured_snr_db, rms_db

PEAK = 0.99


class Mixture(NamedTuple):
    """A mixture and its components, all ``[..., N]``: noisy = speech + noise; clean is the training target.

    clean equals speech without reverberation, and its early part with it. snr_db ``[...]`` is that of speech over noise
    as requested, or NaN where one of them is silent.
    """

    noisy: Tensor
    clean: Tensor
    speech: Tensor
    noise: Tensor
    snr_db: Tensor


def mix(
    speech: Tensor,
    noise: Tensor,
    snr_db: float | Tensor,
    definition: str = "rms",
    sample_rate_hz: int = 16000,
    level_dbfs: float | Tensor | None = None,
    clean: Tensor | None = None,
) -> Mixture:
    """Adds noise to speech at a requested SNR; everything is then scaled together.

    One signal or a batch, on any device, none of which waits for the other; an item is the same, bit for bit, alone
    and in any batch.

    Args:
        speech: ``[..., N]``, reverberant if it is to be.
        noise: ``[..., N]``.
        snr_db: requested SNR between speech and noise, ``[...]`` or one for all.
        definition: of level: "rms", "active" or "lufs".
        sample_rate_hz: rate of both.
        level_dbfs: RMS level of the mixture, ``[...]`` or one for all; None keeps the speech's own level.
        clean: the target ``[..., N]`` if it is not the speech itself (its early part, say).

    A mixture whose peak would pass 0.99 is turned down as a whole: nothing clips and the SNR stays. Silent speech or
    noise has no SNR: then the components are added as they are.
    """
    gap_db = measured_snr_db(speech, noise, definition, sample_rate_hz)
    defined = gap_db.isfinite()
    wanted_db = torch.zeros_like(gap_db) + snr_db
    noise_gain = torch.where(defined, 10 ** ((gap_db - wanted_db) / 20), 1.0)

    def scaled(wave: Tensor, gain: Tensor) -> Tensor:
        return wave * gain[..., None].to(wave.dtype)

    unscaled = speech + scaled(noise, noise_gain)
    gain = torch.ones_like(noise_gain)
    if level_dbfs is not None:
        current_db = rms_db(unscaled)
        gain = torch.where(current_db.isfinite(), 10 ** ((level_dbfs - current_db) / 20), gain)
    peak = unscaled.abs().amax(-1)
    if clean is not None:
        peak = peak.maximum(clean.abs().amax(-1))
    gain = torch.where(peak * gain > PEAK, PEAK / peak.to(gain.dtype), gain)
    speech, noise = scaled(speech, gain), scaled(noise, noise_gain * gain)
    target = speech if clean is None else scaled(clean, gain)
    return Mixture(speech + noise, target, speech, noise, torch.where(defined, wanted_db, torch.nan))
