"""Intrusive metrics: an estimate of one item scored against its clean speech.

Every metric is computed in float64 on one item at its true length (no padding) and rounded to six decimals, so that
thread counts and process counts do not show in a table. What cannot be computed is NaN with a reason, never dropped:

- clean or estimate is empty, holds NaN or infinity, or they differ in length: all metrics fail;
- clean or estimate is silent (peak below 1e-8, i.e. -160 dBFS): all metrics fail. Some of the formulas have a value
  there (STOI gives 0), but it says nothing; our choice is to treat a silent estimate alike in every metric;
- too short: PESQ needs 0.25 s and at least one utterance, STOI and eSTOI need 30 frames (about 0.4 s) of active speech.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

#: Peak below which a signal counts as silent.
SILENCE = 1e-8
#: SI-SDR and SDR are clipped to plus and minus this many dB (our choice: a perfect copy would be infinite).
LIMIT_DB = 100.0
#: Decimals kept of every value.
DECIMALS = 6

Signal = Any  # numpy array or CPU tensor [N]; typed loosely so that this module does not import torch


class Metric(NamedTuple):
    """A metric's function ``(clean [N], estimate [N], sample_rate_hz) -> float`` and what a reader must know of it."""

    compute: Callable[[np.ndarray, np.ndarray, int], float]
    unit: str
    variant: str
    packages: tuple[str, ...]
    min_sample_rate_hz: int = 1


class Scores(NamedTuple):
    """Metric values of one estimate (NaN where it failed) and the reason of every failure."""

    values: dict[str, float]
    failures: dict[str, str]


def score(clean: Signal, estimate: Signal, sample_rate_hz: int, metrics: Sequence[str]) -> Scores:
    """Scores one estimate against clean speech.

    Args:
        clean: clean speech ``[N]``.
        estimate: what is scored ``[N]``.
        sample_rate_hz: of both.
        metrics: names from `METRICS`.

    Raises:
        ValueError: for an unknown metric, a missing package, or a sample rate too low for a metric. Bad audio never
            raises: it gives NaN and a reason.
    """
    check_metrics(metrics, sample_rate_hz)
    clean, estimate = np.asarray(clean, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    problem = _problem(clean, estimate)
    values: dict[str, float] = {}
    failures: dict[str, str] = {}
    for name in metrics:
        try:
            value = math.nan if problem else float(METRICS[name].compute(clean, estimate, sample_rate_hz))
            reason = problem or ("" if math.isfinite(value) else f"{name} is {value}")
        except Exception as error:  # pesq alone has three unrelated types; a new one must not stop an evaluation
            reason = _reason(error)
        values[name] = math.nan if reason else round(value, DECIMALS)
        if reason:
            failures[name] = reason
    return Scores(values, failures)


def failed(metrics: Sequence[str], reason: str) -> Scores:
    """The scores of an item that could not be scored at all."""
    return Scores(dict.fromkeys(metrics, math.nan), dict.fromkeys(metrics, reason))


def check_metrics(metrics: Sequence[str], sample_rate_hz: int) -> None:
    """Checks that every metric exists, is installed and works at this sample rate.

    Raises:
        ValueError: naming the metric and the fix.
    """
    if not metrics or len(set(metrics)) != len(metrics):
        raise ValueError(f"metrics {list(metrics)}: name at least one of {list(METRICS)}, each once")
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"metrics: there is no {name!r}; choose from {list(METRICS)}")
        for package in METRICS[name].packages:
            if importlib.util.find_spec(package) is None:
                raise ValueError(f"metrics: {name} needs the package {package}; `pip install {package}` or drop it")
        if sample_rate_hz < METRICS[name].min_sample_rate_hz:
            raise ValueError(
                f"metrics: {name} needs at least {METRICS[name].min_sample_rate_hz} Hz and this audio has "
                f"{sample_rate_hz} Hz; leave it out" + (" or use pesq_nb" if name == "pesq_wb" else "")
            )


def si_sdr(clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int = 0) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, equation 3).

    ``10 log10(|a s|^2 / |a s - e|^2)`` with ``a = <e, s> / <s, s>``. Plain: the mean is not removed, as in the
    corpus' yardsticks (a DC offset is a distortion). Clipped to +-100 dB.
    """
    # sums instead of np.dot: BLAS splits a long dot product by thread, which changes the last digits
    target = np.sum(estimate * clean) / np.sum(clean * clean) * clean
    return _ratio_db(np.sum(target * target), np.sum((target - estimate) ** 2))


def sdr(clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int = 0) -> float:
    """BSSEval SDR in dB: any distortion by a 512-tap filter of the clean speech is forgiven (Vincent et al. 2006).

    torchmetrics' implementation in float64, mean kept, on one thread. Clipped to +-100 dB.
    """
    import torch
    from torchmetrics.functional.audio import signal_distortion_ratio

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        value = signal_distortion_ratio(torch.from_numpy(estimate), torch.from_numpy(clean), filter_length=512)
    finally:
        torch.set_num_threads(threads)
    return max(-LIMIT_DB, min(LIMIT_DB, float(value)))  # NaN stays NaN: both comparisons with it are false


def pesq_wb(clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int) -> float:
    """PESQ wide band (ITU-T P.862.2, MOS-LQO 1.04 to 4.64) at 16 kHz; other rates are resampled to it."""
    return _pesq(clean, estimate, sample_rate_hz, 16000, "wb")


def pesq_nb(clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int) -> float:
    """PESQ narrow band (ITU-T P.862 with P.862.1 mapping) at 8 kHz; other rates are resampled to it."""
    return _pesq(clean, estimate, sample_rate_hz, 8000, "nb")


def stoi(clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int) -> float:
    """Short-time objective intelligibility (Taal et al. 2011), a fraction of 1."""
    return _stoi(clean, estimate, sample_rate_hz, extended=False)


def estoi(clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int) -> float:
    """Extended STOI (Jensen and Taal 2016), a fraction of 1."""
    return _stoi(clean, estimate, sample_rate_hz, extended=True)


METRICS: dict[str, Metric] = {
    "si_sdr": Metric(si_sdr, "dB", "plain (mean not removed), clipped to +-100 dB", ()),
    "sdr": Metric(sdr, "dB", "BSSEval v3 SDR, 512 taps, mean not removed, clipped to +-100 dB", ("torchmetrics",)),
    "pesq_wb": Metric(pesq_wb, "MOS-LQO", "P.862.2 wide band at 16 kHz", ("pesq",), 16000),
    "pesq_nb": Metric(pesq_nb, "MOS-LQO", "P.862.1 narrow band at 8 kHz", ("pesq",), 8000),
    "stoi": Metric(stoi, "fraction", "STOI at 10 kHz", ("pystoi",)),
    "estoi": Metric(estoi, "fraction", "extended STOI at 10 kHz", ("pystoi",)),
}


def _problem(clean: np.ndarray, estimate: np.ndarray) -> str:
    """Why no metric of this pair means anything; empty if nothing is wrong with it."""
    if clean.ndim != 1 or estimate.shape != clean.shape:
        return f"clean has shape {list(clean.shape)} and the estimate {list(estimate.shape)}; both must be the same [N]"
    if clean.size == 0:
        return "empty"
    for name, signal in (("clean", clean), ("estimate", estimate)):
        if not np.isfinite(signal).all():
            return f"{name} holds NaN or infinity"
        if np.abs(signal).max() < SILENCE:
            return f"{name} is silent"
    return ""


def _ratio_db(signal: float, distortion: float) -> float:
    if distortion <= signal * 10 ** (-LIMIT_DB / 10):
        return LIMIT_DB
    return max(-LIMIT_DB, 10 * math.log10(signal / distortion)) if signal > 0 else -LIMIT_DB


def _pesq(clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int, rate_hz: int, mode: str) -> float:
    from pesq import pesq

    return pesq(rate_hz, _resample(clean, sample_rate_hz, rate_hz), _resample(estimate, sample_rate_hz, rate_hz), mode)


def _stoi(clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int, extended: bool) -> float:
    from pystoi import stoi as pystoi

    # eSTOI adds a tiny random dither from numpy's global stream: seed it, and give the caller's stream back
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Not enough STFT frames")
            value = pystoi(clean, estimate, sample_rate_hz, extended=extended)
    except np.exceptions.AxisError:  # what pystoi raises on less than one frame
        value = 1e-5
    finally:
        np.random.set_state(state)
    if value == 1e-5:  # pystoi's way to say that there is no value
        raise ValueError("less than 30 frames of active speech")
    return value


def _resample(signal: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    if from_hz == to_hz:
        return signal
    from scipy.signal import resample_poly

    common = math.gcd(from_hz, to_hz)
    return resample_poly(signal, to_hz // common, from_hz // common)


def _reason(error: Exception) -> str:
    """One line: pesq's messages are bytes, other libraries' may have many lines."""
    argument = error.args[0] if error.args else ""
    text = argument.decode(errors="replace") if isinstance(argument, bytes) else str(error)
    text = " ".join(text.split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
