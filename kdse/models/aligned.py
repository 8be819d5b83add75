"""`Aligned`: a teacher of another rate, delay, level or length, brought to the student's."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdse.audio.alignment import Alignment, fit_length, item_gains, measure_alignment
from kdse.errors import UserError, require_positive
from kdse.internals.lean_imports import uncompiled
from kdse.internals.torch import without_forward_hooks
from kdse.machine.packages import required
from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.checkpoint import class_path_of, load_model, resolve_class
from kdse.models.foreign import digest_tensor
from kdse.models.probe_speech import SPEECH, speech, with_noise
from kdse.models.probing import undisturbed
from kdse.models.recorded import Recorded
from kdse.precision import full_precision

log = logging.getLogger(__name__)

PROBE_SECONDS = 10.0  #: of the recording that is played, at most
#: RMS levels in dB re full scale that it is played at: our choice of quiet, usual and loud.
PROBE_LEVELS_DB = (-40.0, -25.0, -18.0)
PROBE_SNR_DB = 30.0  #: our choice: at 20 dB, white noise covers consonants, and denoisers take them away with it
MINIMUM_CORRELATION = 0.9  #: public denoisers have 0.95 to 1 on the built-in speech, 0.4 to 0.8 on what they suppress
LEVEL_SPREAD_DB = 3.0  #: our choice: gains at the three levels that differ by more are those of a teacher that adapts
GAIN_TOLERANCE_DB = 0.5  #: our choice: a measured gain this near to 1 is left alone, no probe is better than that
GAIN_RANGE = 4.0  #: our choice: an item's own gain stays within this factor of the measured one
#: Zero crossings of torchaudio's windowed sinc to either side. Its default of 6 dulls the upper half octave.
FILTER_WIDTH = 32


class Aligned(SpeechModel):
    """Wraps a teacher whose sample rate, delay, level or length is not the student's; measured, not assumed.

    On its first use the teacher enhances a probe: the first 10 s of a recording of clean speech with white noise 30 dB
    below, at RMS levels of -40, -25 and -18 dB. The delay is the peak of the cross-correlation with the clean speech
    over all three; the gain is a least-squares fit on its loud frames, the median of the three levels. Both are logged,
    and taken out of everything the teacher says afterwards. They do not depend on the training data, so every process
    and every resumed run finds the same, to float precision. (They are therefore not in the state_dict, which a resume
    compares bit by bit; a digest of the settings is.) A teacher that suppresses or distorts the probe has no delay or
    gain that could be trusted: a correlation below ``minimum_correlation`` is an error.

    Delays are whole samples at the teacher's rate. The inner model's taps pass through; their time axis is the
    teacher's own (its rate, its delay). A corrected estimate keeps its spectrum and mask only where they still
    describe it: the spectrum if rate and delay are the student's, the mask if the gain is 1 as well.

    Args:
        model: the teacher: {class_path, init_args}, a checkpoint of kdse fit, or an instance.
        sample_rate_hz: the student's rate.
        delay_samples: how late the teacher is, at its own rate; None measures it.
        gain: the teacher's level, which is divided out: 1.0 leaves it; None measures it once; "each" fits every item
            anew to the noisy input's loud frames, within a factor 4 of the measured gain, for teachers trained on a
            loss without scale.
        maximum_delay_ms: delays are searched up to this, early and late.
        flush: feed as many samples of silence as the delay, so that the end of the answer arrives too. It lengthens
            the time axis of taps by as much; False fills the end of the answer with zeros instead, for objectives that
            pair frames and for teachers of a fixed length.
        probe: wav or flac file of clean speech to measure on, a few seconds; None takes the built-in 9.4 s, read by
            espeak-ng in two voices.
        minimum_correlation: smallest correlation of answer and clean speech that is believed (the median of the three
            levels), from 0 to 1. 0.9 is our choice: what a teacher has that hears speech as speech.
    """

    settings_sha256: Tensor

    def __init__(
        self,
        model: dict[str, Any] | str | SpeechModel,
        sample_rate_hz: int = 16000,
        delay_samples: int | None = None,
        gain: float | Literal["each"] | None = None,
        maximum_delay_ms: float = 250.0,
        flush: bool = True,
        probe: str | None = None,
        minimum_correlation: float = MINIMUM_CORRELATION,
    ) -> None:
        super().__init__()
        if isinstance(gain, str) and gain != "each":
            raise UserError(f'Aligned: gain={gain!r}: use a number, "each", or none to measure it')
        if not isinstance(gain, str) and gain is not None and (gain == 0 or not math.isfinite(gain)):
            raise UserError(f"Aligned: gain={gain}: the teacher's level is divided out, so it cannot be this")
        require_positive(maximum_delay_ms=maximum_delay_ms)
        if not 0 <= minimum_correlation <= 1:
            raise UserError(f"Aligned: minimum_correlation={minimum_correlation} must lie between 0 and 1")
        if probe is not None and not Path(probe).is_file():
            raise UserError(f"Aligned: probe {probe}: no such file")
        self.inner, self.brings_weights = build_inner(model)
        if isinstance(self.inner, Recorded):
            raise UserError("Aligned: a recorded teacher's output comes with the data; align the files themselves")
        if isinstance(model, SpeechModel):  # so that a checkpoint can still describe this one
            self.init_args["model"] = {
                "class_path": class_path_of(type(model)),
                "init_args": dict(model.init_args),
            }
        self.sample_rate_hz = sample_rate_hz
        self.hop_samples = max(1, round(self.inner.hop_samples * sample_rate_hz / self.inner.sample_rate_hz))
        self.delay_samples, self.flush, self.probe = delay_samples, flush, probe
        self.minimum_correlation = minimum_correlation
        self.gain = float(gain) if isinstance(gain, int) else gain
        self.maximum_delay_samples = round(maximum_delay_ms * self.inner.sample_rate_hz / 1000)
        self._alignment: Alignment | None = None
        self.inner.register_load_state_dict_post_hook(self._forget)
        self.register_buffer("settings_sha256", digest_tensor(self._settings()))

    def taps(self) -> dict[str, Tap]:
        return {name: replace(tap, path=f"inner.{tap.path}") for name, tap in self.inner.taps().items()}

    def forward(self, noisy: Tensor) -> Estimate:
        alignment = self.measure(noisy.device)
        delay = alignment.delay_samples
        heard = self._resample(noisy, noisy.shape[1], to_teacher=True)
        before, after = (max(0, -delay), max(0, delay)) if self.flush else (0, 0)
        estimate = self.inner(nn.functional.pad(heard, (before, after)))
        wave = fit_length(estimate.waveform, heard.shape[1], start=before + delay)
        wave = self._resample(wave, noisy.shape[1], to_teacher=False)
        in_time = delay == 0 and self.inner.sample_rate_hz == self.sample_rate_hz
        if self.gain == "each":
            gains = item_gains(noisy, wave, alignment.gain, GAIN_RANGE).to(wave)
            return Estimate(wave / gains)
        if alignment.gain == 1:
            return Estimate(wave, estimate.spectrum, estimate.mask) if in_time else Estimate(wave)
        spectrum = estimate.spectrum / alignment.gain if in_time and estimate.spectrum is not None else None
        return Estimate(wave / alignment.gain, spectrum)

    def measure(self, device: torch.device | None = None) -> Alignment:
        """The teacher's delay (at its own rate) and gain, measured at the first call, on ``device``, and logged.

        Raises:
            ValueError: if its answer to the probe resembles the probe too little, or is silent.
        """
        if self._alignment is None:
            self._alignment = self._measure(self.device if device is None else device)
        return self._alignment

    @uncompiled
    def _measure(self, device: torch.device) -> Alignment:
        if self.delay_samples is not None and isinstance(self.gain, float):
            return Alignment(self.delay_samples, self.gain, math.nan)
        clean, noisy = self._probe_pair(device)
        with _unobserved(self.inner, device), full_precision(device):
            answer = torch.cat([self.inner(item).waveform.float() for item in noisy.split(1)])
        most, name = self.maximum_delay_samples, type(self.inner).__name__
        try:
            delay = measure_alignment(noisy, answer, most, clean, self.delay_samples).delay_samples
        except UserError as error:
            raise UserError(f"Aligned: {name} cannot be measured ({error}); {_ADVICE}") from None
        levels = [Alignment(delay, 0.0, 0.0)] * len(clean)
        for i in range(len(clean)):
            with contextlib.suppress(UserError):  # (a gate may stay closed at the lowest level)
                levels[i] = measure_alignment(noisy[i, None], answer[i, None], most, clean[i, None], delay)
        gain, correlation = (statistics.median(row[i] for row in levels) for i in (1, 2))
        if abs(correlation) < self.minimum_correlation:
            raise UserError(
                f"Aligned: {name}'s answer to the probe has a correlation of only {correlation:.2f} with the clean "
                f"speech (minimum_correlation={self.minimum_correlation:g}), too little to correct by; {_ADVICE}"
            )
        if isinstance(self.gain, float):
            gain = self.gain
        else:
            _report_spread([row.gain for row in levels], self.gain == "each")
            if gain > 0 and abs(20 * math.log10(gain)) <= GAIN_TOLERANCE_DB:
                gain = 1.0
        found = Alignment(delay, gain, correlation)
        _report(found, self.delay_samples is None, not isinstance(self.gain, float))
        return found

    def _probe_pair(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Clean and noisy probe ``[levels, N]`` at the teacher's rate, with nothing above the student's band."""
        clean = speech(self.sample_rate_hz, PROBE_LEVELS_DB, PROBE_SECONDS, self.probe or SPEECH)
        pair = torch.cat([clean, with_noise(clean, PROBE_SNR_DB)]).to(device)
        pair = self._resample(pair, pair.shape[1], to_teacher=True)
        clean, noisy = pair[:, : self.inner.fixed_samples].chunk(2)
        return clean, noisy

    def _resample(self, wave: Tensor, samples: int, to_teacher: bool) -> Tensor:
        """``[B, n]`` between the two rates; ``samples`` is the length at the student's."""
        theirs, ours = self.inner.sample_rate_hz, self.sample_rate_hz
        if theirs == ours:
            return wave
        resample = required("torchaudio.functional", "resample")
        with full_precision(wave.device):
            rates = (ours, theirs) if to_teacher else (theirs, ours)
            wave = resample(wave.float(), *rates, lowpass_filter_width=FILTER_WIDTH)
        return fit_length(wave, math.ceil(samples * theirs / ours) if to_teacher else samples)

    def _settings(self) -> bytes:
        """Digest of what decides the correction besides the teacher."""
        settings = repr((self.sample_rate_hz, self.inner.sample_rate_hz, self.delay_samples, self.gain))
        settings += repr((self.maximum_delay_samples, self.flush))
        return hashlib.sha256(settings.encode() + Path(self.probe or SPEECH).read_bytes()).digest()

    def _forget(self, module: nn.Module, incompatible: Any) -> None:
        self._alignment = None  # other weights, another delay


_ADVICE = (
    "give a recording of clean speech that it leaves alone as `probe`, or both `delay_samples` and `gain` by hand (1.0 "
    "leaves the level)"
)


def build_inner(model: dict[str, Any] | str | SpeechModel) -> tuple[SpeechModel, bool]:
    """The inner model, and whether it comes with weights."""
    if isinstance(model, SpeechModel):
        return model, True
    if isinstance(model, str):
        return load_model(model), True
    if not isinstance(model, dict) or set(model) - {"class_path", "init_args"} or "class_path" not in model:
        raise UserError(
            f"Aligned: model={model!r}: give {{class_path, init_args}}, a checkpoint of kdse fit or a model"
        )
    cls = resolve_class(str(model["class_path"]), trust_code=True, source="Aligned: model")
    try:
        built = cls(**dict(model.get("init_args") or {}))
    except TypeError as error:
        raise UserError(f"Aligned: {model['class_path']} does not take these init_args: {error}") from None
    return built, built.brings_weights


@contextlib.contextmanager
def _unobserved(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Runs the body in eval mode, with random streams of its own, and with no hooks: a tap recorder would count the
    probe as a second call."""
    streams = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with without_forward_hooks(model), undisturbed(model), streams:
        torch.default_generator.manual_seed(0)  # a teacher that samples at random draws the same numbers every time
        if device.type == "cuda":
            torch.cuda.manual_seed(0)
        yield


def _report_spread(gains: list[float], each: bool) -> None:
    decibels = [20 * math.log10(max(abs(gain), 1e-9)) for gain in gains]
    if not each and max(decibels) - min(decibels) > LEVEL_SPREAD_DB:
        at = ", ".join(f"{d:+.1f} dB at {level:g}" for d, level in zip(decibels, PROBE_LEVELS_DB, strict=True))
        log.warning('the teacher changes its level with that of its input (%s dB); gain: "each" fits every item', at)


def _report(found: Alignment, delay_measured: bool, gain_measured: bool) -> None:
    late = found.delay_samples
    if delay_measured:
        when = f"{abs(late)} samples {'late' if late > 0 else 'early'}" if late else "in time"
        corrected = ": corrected" if late else ""
        log.info("teacher output is %s (correlation %.2f)%s", when, found.correlation, corrected)
    if gain_measured and found.gain != 1:
        inverted = ", inverted" if found.gain < 0 else ""
        decibels = 20 * math.log10(abs(found.gain))
        log.info("teacher output has a gain of %.3f (%+.1f dB%s): corrected", found.gain, decibels, inverted)
