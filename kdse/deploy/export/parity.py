"""Every exported file is run against PyTorch before it gets its name."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdse.errors import UserError
from kdse.models.base import SpeechModel
from kdse.models.streaming import Streamer

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
    from kdse.audio.files import read

    if file is not None:
        try:
            wave = read(file, sample_rate_hz)
        except ValueError as error:
            raise UserError(f"--parity-audio {error}") from None
        if wave.numel() < SECONDS * sample_rate_hz:
            raise UserError(f"--parity-audio {file}: is {wave.numel() / sample_rate_hz:.1f} s long; give 4 s or more")
        return wave[None], Path(file).name
    samples = round(SECONDS * sample_rate_hz)
    root = os.environ.get("KDSE_CORPUS")
    speech, noise = (
        _first_of(Path(root) / part / "test", samples, sample_rate_hz) if root else None for part in ("speech", "noise")
    )
    if speech is None or noise is None:
        from kdse.models.probe_speech import speech_like, with_noise

        return _with_silence(with_noise(speech_like(sample_rate_hz, SECONDS)), sample_rate_hz), PROBE
    gain = speech[0].square().mean().sqrt() / noise[0].square().mean().sqrt().clamp_min(1e-9) * 10 ** (-SNR_DB / 20)
    mixed = speech[0] + gain * noise[0]
    quiet = _with_silence((mixed / mixed.abs().max().clamp_min(1.0))[None], sample_rate_hz)
    return quiet, f"{speech[1]} + {noise[1]} at {SNR_DB:g} dB"


def _with_silence(wave: Tensor, sample_rate_hz: int) -> Tensor:
    wave = wave.clone()
    wave[:, 2 * sample_rate_hz : 5 * sample_rate_hz // 2] = 0
    return wave


def _first_of(folder: Path, samples: int, sample_rate_hz: int) -> tuple[Tensor, str] | None:
    """The first file of a folder that is long enough and not silent, and its name."""
    from kdse.audio.files import EXTENSIONS, AudioError, read

    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS):
        try:
            wave = read(path, sample_rate_hz, 0, samples)
        except AudioError:  # shorter than that, or damaged: the next one will do
            continue
        if wave.numel() == samples and wave.any():
            return wave, path.name
    return None


def compare(exported: SpeechModel, model: SpeechModel, noisy: Tensor, signal: str, kind: str) -> Parity:
    """A file as a model against the student, by the graph it holds: "step" or "whole"."""
    return (compare_steps if kind == "step" else compare_whole)(exported, model, noisy, signal)


@torch.no_grad()
def compare_steps(exported: SpeechModel, model: SpeechModel, noisy: Tensor, signal: str) -> Parity:
    """A step file against the model hop by hop, and against its whole forward pass with the delay taken out."""
    found = _stream(exported, noisy)
    against = {"hop by hop": _stream(model, noisy), "over the whole signal": model.eval()(noisy).waveform}
    return _worst(found, against, noisy, model, signal)


@torch.no_grad()
def compare_whole(exported: SpeechModel, model: SpeechModel, noisy: Tensor, signal: str) -> Parity:
    """A file of whole signals against the model, on the signal and on a part of an odd length."""
    part = noisy[:, : noisy.shape[1] // 3 | 1]
    results = [
        _worst(exported(wave).waveform, {"over the whole signal": model.eval()(wave).waveform}, wave, model, signal)
        for wave in (part, noisy)
    ]
    worst = max(results, key=lambda r: r.max_abs_difference)
    return worst._replace(seconds=results[-1].seconds)


def require(parity: Parity, what: str, tolerance: float = TOLERANCE) -> None:
    """Refuses a file that is too far from PyTorch.

    Raises:
        ValueError: with the difference, where it is, and the tolerance.
    """
    if not parity.max_abs_difference <= tolerance:
        raise UserError(
            f"{what}: the exported file differs from PyTorch by {parity.max_abs_difference:.3g} at "
            f"{parity.place_seconds:.3f} s of {parity.signal} (tolerance {tolerance:g}); nothing was written"
        )


def _stream(model: SpeechModel, noisy: Tensor) -> Tensor:
    streamer = Streamer(model, noisy.shape[0])
    return torch.cat([streamer.push(noisy), streamer.flush()], dim=1)


def _worst(found: Tensor, against: dict[str, Tensor], noisy: Tensor, model: SpeechModel, signal: str) -> Parity:
    """The largest difference; infinite where the file gives what is not finite, or another length."""
    rate, difference, place = model.sample_rate_hz, -1.0, 0
    for how, wanted in against.items():
        if found.shape != wanted.shape:
            raise UserError(f"the exported file gives {list(found.shape)} {how}, PyTorch {list(wanted.shape)}")
        apart = (found - wanted).abs().nan_to_num(nan=math.inf, posinf=math.inf)
        if apart.max() > difference:
            difference, place = float(apart.max()), int(apart.argmax()) % apart.shape[1]
    return Parity(difference, place / rate, noisy.shape[1] / rate, signal)
