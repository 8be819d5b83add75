"""Every exported file is run against PyTorch before it gets its name."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdse.audio.files import read
from kdse.audio.listing import audio_files
from kdse.audio.opening import AudioError
from kdse.errors import UserError
from kdse.models.base import SpeechModel
from kdse.models.probe_speech import speech_like, with_noise
from kdse.models.streaming import streamed

#: Largest difference of any sample, of full scale: -80 dB. Our choice: far below what 16 bits hear, far above float32.
TOLERANCE = 1e-4
SECONDS = 4.0
PROBE = "kdse probe signal"
SNR_DB = 5.0


class Parity(NamedTuple):
    """How far a file is from PyTorch on one signal.

    max_abs_difference: largest difference of a sample of full scale 1, over both comparisons.
    place_seconds: where it is.
    seconds: length of the signal.
    signal: what the signal was.
    """

    max_abs_difference: float
    place_seconds: float
    seconds: float
    signal: str

    @property
    def decibels(self) -> float:
        """The difference relative to full scale; -inf for none."""
        return 20 * math.log10(self.max_abs_difference) if self.max_abs_difference > 0 else -math.inf

    def as_metadata(self) -> dict[str, Any]:
        """What the file keeps of it."""
        return {
            "max_abs_difference": self.max_abs_difference,
            "seconds": round(self.seconds, 6),
            "signal": published(self.signal),
        }


def published(signal: str) -> str:
    """What a file may say of the signal it was checked on: names of recordings may tell of people."""
    return signal if signal == PROBE else "recorded audio"


def probe(sample_rate_hz: int, file: str | Path | None = None) -> tuple[Tensor, str]:
    """Noisy audio ``[1, N]`` of at least 4 s to compare on, and what it is.

    ``file`` if one is given, else speech and noise of the test split of the corpus at KDSE_CORPUS (mixed at 5 dB), else
    kdse's own probe signal with noise, the same on every call. Half a second of the last two is digital silence, where
    what guards a logarithm or a division shows if an exporter has lost it.

    Raises:
        ValueError: for a file that cannot be read, or is shorter than 4 s.
    """
    if file is not None:
        try:
            wave = read(file, sample_rate_hz)
        except ValueError as error:
            raise UserError(f"--parity-audio {error}") from None
        if wave.numel() < SECONDS * sample_rate_hz:
            raise UserError(f"--parity-audio {file}: is {wave.numel() / sample_rate_hz:.1f} s long; give 4 s or more")
        return wave[None], Path(file).name
    root = os.environ.get("KDSE_CORPUS")
    speech, noise = (_first_of(root, part, sample_rate_hz) if root else None for part in ("speech", "noise"))
    if speech is None or noise is None:
        mixed, signal = with_noise(speech_like(sample_rate_hz, SECONDS)), PROBE
    else:
        gain = speech[0].square().mean().sqrt() / noise[0].square().mean().sqrt().clamp_min(1e-9) * 10 ** (-SNR_DB / 20)
        mixed = (speech[0] + gain * noise[0])[None]
        mixed, signal = mixed / mixed.abs().max().clamp_min(1.0), f"{speech[1]} + {noise[1]} at {SNR_DB:g} dB"
    mixed[:, 2 * sample_rate_hz : 5 * sample_rate_hz // 2] = 0
    return mixed, signal


def _first_of(corpus: str, part: str, sample_rate_hz: int) -> tuple[Tensor, str] | None:
    """The first file of a corpus' test split that is long enough and not silent, and its name."""
    samples = round(SECONDS * sample_rate_hz)
    folder = Path(corpus, part, "test")
    for path in (folder / name for name in audio_files(folder)) if folder.is_dir() else ():
        try:
            wave = read(path, sample_rate_hz, 0, samples)
        except AudioError:  # shorter than that, or damaged: the next one will do
            continue
        if wave.numel() == samples and wave.any():
            return wave, path.name
    return None


@torch.no_grad()
def compare(exported: SpeechModel, model: SpeechModel, noisy: Tensor, signal: str, kind: str) -> Parity:
    """A file, as a model, against the student, by the graph that it holds.

    "step": hop by hop, and against the whole forward pass with the delay taken out. "whole": on the signal, and on a
    part of it of an odd length.

    Raises:
        ValueError: if lengths differ.
    """
    model = model.eval()
    if kind == "step":
        found, hop_by_hop = (streamed(one, noisy, block_hops=1) for one in (exported, model))
        pairs = [(found, hop_by_hop), (found, model(noisy).waveform)]
    else:
        waves = (noisy[:, : noisy.shape[1] // 3 | 1], noisy)
        pairs = [(exported(wave).waveform, model(wave).waveform) for wave in waves]
    difference, place = max(_difference(*pair) for pair in pairs)
    return Parity(difference, place / model.sample_rate_hz, noisy.shape[1] / model.sample_rate_hz, signal)


def require(parity: Parity, what: str, tolerance: float = TOLERANCE) -> None:
    """Refuses a file that is too far from PyTorch with a ValueError of the difference, its place and the tolerance."""
    if not parity.max_abs_difference <= tolerance:
        raise UserError(
            f"{what}: the exported file differs from PyTorch by {parity.max_abs_difference:.3g} at "
            f"{parity.place_seconds:.3f} s of {parity.signal} (tolerance {tolerance:g}); nothing was written"
        )


def _difference(found: Tensor, wanted: Tensor) -> tuple[float, int]:
    """The largest difference and its sample; infinite where the file gives what is not finite."""
    if found.shape != wanted.shape:
        raise UserError(f"the exported file gives {list(found.shape)}, PyTorch {list(wanted.shape)}")
    apart = (found - wanted).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    return float(apart.max()), int(apart.argmax()) % apart.shape[1]
