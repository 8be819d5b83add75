"""Levels of signals in dB (RMS, active speech, LUFS), and the SNR of two under each definition.

All take ``[..., N]``, of one signal or a batch on any device, and give ``[...]`` float64 (see
`sum_dtype`). What a signal gives does not depend, bit for bit, on the others of its batch or on the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdse.errors import UserError
from kdse.machine.packages import required

SNR_DEFINITIONS = ("rms", "active", "lufs")
#: Samples whose energy is summed at once. Torch splits the sum of one long row among its threads, but not those of
#: several: so the rounding stays the same.
PIECE = 500


def sum_dtype(device: torch.device) -> torch.dtype:
    """What a device sums in: float64, or float32 where it has no other (Apple's)."""
    return torch.float32 if device.type == "mps" else torch.float64


def _energy(wave: Tensor, size: int) -> Tensor:
    """Sum of squares of each ``size`` samples: ``[..., N // size]``; what is left over is not counted."""
    frames = wave[..., : wave.shape[-1] // size * size].unflatten(-1, (-1, size))
    return torch.linalg.vector_norm(frames, dim=-1, dtype=sum_dtype(wave.device)).square()


def rms_db(wave: Tensor) -> Tensor:
    """Level relative to full scale (1.0); -inf for silence."""
    count = wave.shape[-1]
    rest = count % PIECE
    energy = _energy(wave, PIECE).sum(-1)
    if rest:
        energy = energy + _energy(wave[..., count - rest :], rest)[..., 0]
    return 10 * torch.log10(energy / max(1, count))


def active_db(wave: Tensor, sample_rate_hz: int) -> Tensor:
    """Level over 20 ms frames within 40 dB (1e-4) of the loudest. Our definition, simpler than ITU-T P.56."""
    size = max(1, round(0.02 * sample_rate_hz))
    if wave.shape[-1] < size:
        return rms_db(wave)
    power = _energy(wave, size) / size
    active = power >= power.amax(-1, keepdim=True) * 1e-4
    return 10 * torch.log10((power * active).sum(-1) / active.sum(-1))


def lufs_db(wave: Tensor, sample_rate_hz: int) -> Tensor:
    """Gated loudness of ITU-R BS.1770-4 in LUFS; -inf for silence.

    Gated at -23 dBFS RMS and the gain taken back (our choice): recordings are stored at any level, and the standard's
    absolute gate at -70 LUFS would make the SNR depend on it. A ValueError if it is shorter than one block of 0.4 s.
    """
    loudness = required("torchaudio.functional", "loudness")
    if wave.shape[-1] < 0.4 * sample_rate_hz:
        raise UserError(
            f"--data.snr_definition lufs: {wave.shape[-1] / sample_rate_hz:.2f} s is shorter than one 0.4 s block; "
            "use longer segments or another definition"
        )
    level = rms_db(wave)
    gain_db = torch.where(level.isfinite(), -23.0 - level, 0.0)
    value = loudness((wave.double() * 10 ** (gain_db / 20)[..., None])[..., None, :], sample_rate_hz)
    return torch.where(level.isfinite() & value.isfinite(), value - gain_db, -torch.inf)


def level_db(wave: Tensor, definition: str, sample_rate_hz: int) -> Tensor:
    """Level under a named definition: "rms", "active" or "lufs"."""
    if definition not in SNR_DEFINITIONS:
        raise UserError(f"--data.snr_definition {definition}: use one of {', '.join(SNR_DEFINITIONS)}")
    if definition == "rms":
        return rms_db(wave)
    return (active_db if definition == "active" else lufs_db)(wave, sample_rate_hz)


def measured_snr_db(speech: Tensor, noise: Tensor, definition: str = "rms", sample_rate_hz: int = 16000) -> Tensor:
    """SNR between two components. Under "active" speech counts where it is active and noise everywhere."""
    noise_definition = "rms" if definition == "active" else definition
    return level_db(speech, definition, sample_rate_hz) - level_db(noise, noise_definition, sample_rate_hz)
