"""Levels of a signal in dB (RMS, active speech, LUFS), and the SNR of two under each definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdse.errors import UserError
from kdse.machine.packages import required

SNR_DEFINITIONS = ("rms", "active", "lufs")


def rms_db(wave: Tensor) -> float:
    """Level of ``[N]`` in dB relative to full scale (1.0); -inf for silence."""
    power = float(wave.double().square().mean()) if wave.numel() else 0.0
    return 10 * math.log10(power) if power > 0 else float("-inf")


def active_db(wave: Tensor, sample_rate_hz: int) -> float:
    """Level over 20 ms frames within 40 dB (1e-4) of the loudest. Our definition, simpler than ITU-T P.56."""
    size = max(1, round(0.02 * sample_rate_hz))
    if wave.numel() < size:
        return rms_db(wave)
    power = wave[: wave.numel() // size * size].double().reshape(-1, size).square().mean(-1)
    active = power[power >= power.max() * 1e-4]
    return 10 * float(torch.log10(active.mean()))


def lufs_db(wave: Tensor, sample_rate_hz: int) -> float:
    """Gated loudness of ITU-R BS.1770-4 in LUFS; -inf for silence.

    Gated at -23 dBFS RMS and the gain taken back (our choice): recordings are stored at any level, and the standard's
    absolute gate at -70 LUFS would make the SNR depend on it. A ValueError if it is shorter than one block of 0.4 s.
    """
    loudness = required("torchaudio.functional", "loudness")
    if wave.numel() < 0.4 * sample_rate_hz:
        raise UserError(
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
    if definition not in SNR_DEFINITIONS:
        raise UserError(f"--data.snr_definition {definition}: use one of {', '.join(SNR_DEFINITIONS)}")
    if definition == "rms":
        return rms_db(wave)
    return (active_db if definition == "active" else lufs_db)(wave, sample_rate_hz)


def measured_snr_db(speech: Tensor, noise: Tensor, definition: str = "rms", sample_rate_hz: int = 16000) -> float:
    """SNR between two components. Under "active" speech counts where it is active and noise everywhere."""
    noise_definition = "rms" if definition == "active" else definition
    return level_db(speech, definition, sample_rate_hz) - level_db(noise, noise_definition, sample_rate_hz)
