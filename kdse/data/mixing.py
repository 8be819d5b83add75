"""Mixing as pure functions: levels, SNR, and what is added to what."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kdse.packages import required

SNR_DEFINITIONS = ("rms", "active", "lufs")
FRAME_SECONDS = 0.02
ACTIVE_RANGE_DB = 40.0
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


def rms_db(wave: Tensor) -> float:
    """Level of ``[N]`` in dB relative to full scale (1.0); -inf for silence."""
    power = float(wave.double().square().mean()) if wave.numel() else 0.0
    return 10 * math.log10(power) if power > 0 else float("-inf")


def active_db(wave: Tensor, sample_rate_hz: int) -> float:
    """Level over active frames: 20 ms frames within 40 dB of the loudest. Our definition, simpler than ITU-T P.56."""
    size = max(1, round(FRAME_SECONDS * sample_rate_hz))
    if wave.numel() < size:
        return rms_db(wave)
    power = wave[: wave.numel() // size * size].double().reshape(-1, size).square().mean(-1)
    active = power[power >= power.max() * 10 ** (-ACTIVE_RANGE_DB / 10)]
    return 10 * float(torch.log10(active.mean()))


def lufs_db(wave: Tensor, sample_rate_hz: int) -> float:
    """Gated loudness of ITU-R BS.1770-4 in LUFS; -inf for silence.

    Gated at -23 dBFS RMS and the gain taken back (our choice): recordings are stored at any level, and the standard's
    absolute gate at -70 LUFS would make the SNR depend on it.

    Raises:
        ValueError: if the signal is shorter than one 0.4 s block.
    """
    loudness = required("torchaudio.functional", "loudness")
    if wave.numel() < 0.4 * sample_rate_hz:
        raise ValueError(
            f"--data.snr_definition lufs: {wave.numel() / sample_rate_hz:.2f} s is shorter than one 0.4 s block; "
            "use longer segments or another definition"
        )
    level = rms_db(wave)
    if level == float("-inf"):
        return level
    gain_db = -23.0 - level
    value = float(loudness(wave.double()[None] * 10 ** (gain_db / 20), sample_rate_hz))
    return value - gain_db if math.isfinite(value) else float("-inf")


def level_db(wave: Tensor, definition: str, sample_rate_hz: int) -> float:
    """Level of ``[N]`` under a named definition: "rms", "active" or "lufs"."""
    if definition == "rms":
        return rms_db(wave)
    if definition == "active":
        return active_db(wave, sample_rate_hz)
    if definition == "lufs":
        return lufs_db(wave, sample_rate_hz)
    raise ValueError(f"--data.snr_definition {definition}: use one of {', '.join(SNR_DEFINITIONS)}")


def measured_snr_db(speech: Tensor, noise: Tensor, definition: str = "rms", sample_rate_hz: int = 16000) -> float:
    """SNR between two components. Under "active" speech counts where it is active and noise everywhere."""
    noise_definition = "rms" if definition == "active" else definition
    return level_db(speech, definition, sample_rate_hz) - level_db(noise, noise_definition, sample_rate_hz)


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
    peak = _peak(unscaled) if clean is None else max(_peak(unscaled), _peak(clean))
    if peak * gain > PEAK:
        gain = PEAK / peak
    speech, noise = speech * gain, noise * (noise_gain * gain)
    target = speech if clean is None else clean * gain
    return Mixture(speech + noise, target, speech, noise, snr_db if defined else math.nan)


def _peak(wave: Tensor) -> float:
    return float(wave.abs().max()) if wave.numel() else 0.0
