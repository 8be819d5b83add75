"""The registry `METRICS` and `score`: an estimate of one item scored, mostly against its clean speech.

Every metric is computed in float64 on one item at its true length (no padding) and rounded to six decimals, so that
thread counts and process counts do not show in a table (the networks of DNSMOS and SQUIM run in float32, on one
thread). What cannot be computed is NaN with a reason, never dropped:

- clean or estimate is empty, holds NaN or infinity, or they differ in length: all metrics fail;
- clean or estimate is silent (peak below 1e-8, i.e. -160 dBFS): all metrics fail, also those that listen to the
  estimate alone. Some of the formulas have a value there (STOI gives 0), but it says nothing; our choice is to treat
  a silent estimate alike in every metric;
- too short: PESQ and the composite measures need 0.25 s and at least one utterance, STOI and eSTOI need 30 frames
  (about 0.4 s) of active speech, segmental SNR 37.5 ms, LSD 32 ms. DNSMOS repeats what is shorter than 9.01 s.

Identical signals score the best value: 100 dB for SI-SDR and SDR, 35 dB for segmental SNR (less with digital silence
in the clean speech), 0 dB for LSD, 4.64 and 4.55 for PESQ wb and nb, 1 for STOI and eSTOI, 5 for CSIG, CBAK and COVL.

The estimate's level counts in segmental SNR, CBAK, LSD and DNSMOS. It does not, but for rounding, in the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdse.errors import UserError
from kdse.machine.packages import PackageError, required
from kdse.metrics import composite, dnsmos, perceptual, ratios, spectral, squim
from kdse.metrics.clean_and_estimate import Pair

#: Peak below which a signal counts as silent.
SILENCE = 1e-8
#: Decimals kept of every value.
DECIMALS = 6

Signal = Any  # numpy array or CPU tensor [N]; typed loosely so that this module does not import torch


class Metric(NamedTuple):
    """A metric's function and what a reader must know of it."""

    compute: Callable[[Pair], float]
    title: str  # of a table's column; shown value = raw value x `factor` with `decimals`. Files keep raw values
    unit: str  # of the raw value
    variant: str  # all that is needed to compute it again elsewhere
    packages: tuple[str, ...] = ()  # that must be installed
    min_sample_rate_hz: int = 1  # below it the metric has no meaning
    factor: float = 1
    decimals: int = 2
    higher_is_better: bool = True
    file: str = ""  # name in `files` of the model file that it needs
    #: reads that model; raises ValueError if the file is missing or another model's
    load: Callable[[Mapping[str, str]], Any] | None = None


class Scores(NamedTuple):
    """Metric values of one estimate (NaN where it failed) and the reason of every failure."""

    values: dict[str, float]
    failures: dict[str, str]


def score(
    clean: Signal, estimate: Signal, sample_rate_hz: int, metrics: Sequence[str], files: Mapping[str, str] | None = None
) -> Scores:
    """Scores one estimate ``[N]`` against clean speech ``[N]`` by some of `METRICS`.

    ``files`` holds the model files of the metrics that need one, by name: "dnsmos", "squim".

    Raises:
        ValueError: as `check_metrics`. Bad audio never raises: it gives NaN and a reason.
    """
    check_metrics(metrics, sample_rate_hz, files)
    clean, estimate = np.asarray(clean, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    if problem := _problem(clean, estimate):
        return failed(metrics, problem)
    pair = Pair(clean, estimate, sample_rate_hz, files or {})
    scores = Scores({}, {})
    for name in metrics:
        value = math.nan
        try:
            value = float(METRICS[name].compute(pair))
            reason = "" if math.isfinite(value) else f"{name} is {value}"
        except Exception as error:  # pesq alone has three unrelated types; a new one must not stop an evaluation
            reason = _reason(error)
        scores.values[name] = math.nan if reason else round(value, DECIMALS)
        if reason:
            scores.failures[name] = reason
    return scores


def failed(metrics: Sequence[str], reason: str) -> Scores:
    """The scores of an item that could not be scored at all."""
    return Scores(dict.fromkeys(metrics, math.nan), dict.fromkeys(metrics, reason))


def check_metrics(metrics: Sequence[str], sample_rate_hz: int, files: Mapping[str, str] | None = None) -> None:
    """Checks that every metric exists, is installed, works at this sample rate and has its model file, which is opened.

    Raises:
        ValueError: naming the metric and the fix.
    """
    if not metrics or len(set(metrics)) != len(metrics):
        raise UserError(f"metrics {list(metrics)}: name at least one of {list(METRICS)}, each once")
    for name in metrics:
        if name not in METRICS:
            raise UserError(f"metrics: there is no {name!r}; choose from {list(METRICS)}")
        for package in METRICS[name].packages:
            try:
                required(package)
            except PackageError as error:
                raise PackageError(f"metrics: {name} needs {package}, and {error}; or leave it out") from error
        if sample_rate_hz < METRICS[name].min_sample_rate_hz:
            raise UserError(
                f"metrics: {name} needs at least {METRICS[name].min_sample_rate_hz} Hz and this audio has "
                f"{sample_rate_hz} Hz; leave it out" + (" or use pesq_nb" if name == "pesq_wb" else "")
            )
    for load in dict.fromkeys(METRICS[name].load for name in metrics):
        if load is not None:
            load(files or {})


_LLR = "LLR of order 16, not clipped, mean of the lowest 95% of frames; "
_WSS = "WSS with 25 bands, mean of the lowest 95% of frames; "
_SEG = "segSNR of frames clipped to -10..35 dB; "


def _composite(compute: Callable[[Pair], float], title: str, formula: str, parts: str) -> Metric:
    variant = (
        f"Hu and Loizou 2008 at 16 kHz, {formula}, clipped to 1..5; PESQ = P.862.2 wide band; {parts}30 ms Hann frames "
        "every 7.5 ms"
    )
    return Metric(compute, title, "MOS", variant, ("pesq",), 16000)


def _dnsmos(output: str) -> Metric:
    variant = (
        f"DNSMOS P.835, output {output} of sig_bak_ovr.onnx (not personalised) with its polynomial; estimate at 16 "
        "kHz, level as it is, mean over segments of 9.01 s every second, short files doubled (dnsmos_local.py)"
    )
    return Metric(
        lambda pair: dnsmos.ratings(pair)[output], f"DNSMOS {output}", "MOS", variant, ("onnxruntime",), 16000,
        file="dnsmos", load=dnsmos.session,
    )  # fmt: skip


def _squim(output: str, title: str, unit: str, **shown: Any) -> Metric:
    variant = (
        f"output {output} of torchaudio's SQUIM_OBJECTIVE (squim_objective_dns2020.pth), from the whole estimate at 16 "
        "kHz alone"
    )
    return Metric(
        lambda pair: squim.estimates(pair)[output], title, unit, variant, ("torchaudio",), 16000,
        file="squim", load=squim.model, **shown,
    )  # fmt: skip


METRICS: dict[str, Metric] = {
    "si_sdr": Metric(ratios.si_sdr, "SI-SDR dB", "dB", "plain (mean not removed), clipped to +-100 dB"),
    "sdr": Metric(
        ratios.sdr, "SDR dB", "dB", "BSSEval v3 SDR, 512 taps, mean not removed, clipped to +-100 dB", ("torchmetrics",)
    ),
    "seg_snr": Metric(
        ratios.seg_snr, "segSNR dB", "dB",
        "mean over all frames (pauses too) of their SNR clipped to -10..35 dB; 30 ms Hann frames every 7.5 ms",
    ),
    "pesq_wb": Metric(
        perceptual.pesq_wb, "PESQ wb", "MOS-LQO", "P.862.2 wide band at 16 kHz", ("pesq",), 16000, decimals=3
    ),
    "pesq_nb": Metric(perceptual.pesq_nb, "PESQ nb", "MOS-LQO", "P.862.1 narrow band at 8 kHz", ("pesq",), decimals=3),
    "stoi": Metric(perceptual.stoi, "STOI %", "fraction", "STOI at 10 kHz", ("pystoi",), factor=100),
    "estoi": Metric(perceptual.estoi, "eSTOI %", "fraction", "extended STOI at 10 kHz", ("pystoi",), factor=100),
    "csig": _composite(composite.csig, "CSIG", "3.093 - 1.029 LLR + 0.603 PESQ - 0.009 WSS", _LLR + _WSS),
    "cbak": _composite(composite.cbak, "CBAK", "1.634 + 0.478 PESQ - 0.007 WSS + 0.063 segSNR", _WSS + _SEG),
    "covl": _composite(composite.covl, "COVL", "1.594 + 0.805 PESQ - 0.512 LLR - 0.007 WSS", _LLR + _WSS),
    "lsd": Metric(
        spectral.lsd, "LSD dB", "dB",
        "mean over frames of the RMS over bins; 32 ms Hann frames every 8 ms, at the audio's sample rate; both log "
        "spectra floored 50 dB below the loudest bin of the clean speech",
        higher_is_better=False,
    ),
    "dnsmos_sig": _dnsmos("SIG"),
    "dnsmos_bak": _dnsmos("BAK"),
    "dnsmos_ovrl": _dnsmos("OVRL"),
    "squim_stoi": _squim("STOI", "SQUIM STOI %", "fraction", factor=100),
    "squim_pesq": _squim("PESQ", "SQUIM PESQ", "MOS-LQO", decimals=3),
    "squim_si_sdr": _squim("SI-SDR", "SQUIM SI-SDR dB", "dB"),
}  # fmt: skip


def _problem(clean: np.ndarray, estimate: np.ndarray) -> str:
    """The reason why no metric can score this pair; empty if there is none."""
    if clean.ndim != 1 or estimate.shape != clean.shape:
        return f"clean has shape {list(clean.shape)} and the estimate {list(estimate.shape)}; both must be the same [N]"
    if clean.size == 0:
        return "empty"
    for name, signal in {"clean": clean, "estimate": estimate}.items():
        if not np.isfinite(signal).all():
            return f"{name} holds NaN or infinity"
        if np.abs(signal).max() < SILENCE:
            return f"{name} is silent"
    return ""


def _reason(error: Exception) -> str:
    """An error on one line: pesq's messages are bytes, other libraries' may have many lines."""
    argument = error.args[0] if error.args else ""
    text = argument.decode(errors="replace") if isinstance(argument, bytes) else str(error)
    text = " ".join(text.split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
