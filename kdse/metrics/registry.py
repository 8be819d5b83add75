"""The registry `METRICS` and `score`: an estimate of one item scored, mostly against its clean speech.

Every metric is computed in float64 on one item at its true length (no padding) and rounded to six decimals, so that
thread counts and process counts do not show in a table (the networks of DNSMOS and SQUIM run in float32, on one
thread). What cannot be computed is NaN with a reason, never dropped:

- clean or estimate is empty, holds NaN or infinity, or they differ in length: all metrics fail;
- clean or estimate is silent (peak below 1e-8, i.e. -160 dBFS): all metrics fail, also those that listen to the
  estimate alone. Some of the formulas have a value there (STOI gives 0), but it says nothing; our choice is to treat
  a silent estimate alike in every metric;
- too short: PESQ and the composite measures need 0.25 s and at least one utterance, STOI and eSTOI need 30 frames
  (about 0.4 s) of active speech, segmental SNR 37.5 ms, LSD 32 ms, SDR the 512 samples of its filter, DNSMOS and
  SQUIM 0.25 s (DNSMOS repeats what is shorter than 9.01 s);
- a perfect copy: SI-SDR and SDR would be infinite, and one such item would decide a mean.

Audio longer than a metric takes (`Metric.longest`) is scored in equal pieces, as few as will do: the value is their
mean, and `Scores.pieces` says of how many. Pieces in which even the clean speech as its own estimate has no value (a
pause) are left out; any other piece that fails, fails the metric.

Identical signals score the best value of the other metrics: 35 dB for segmental SNR (less with digital silence in the
clean speech), 0 dB for LSD, 4.64 and 4.55 for PESQ wb and nb, 1 for STOI and eSTOI, 5 for CSIG, CBAK and COVL.

The estimate's level counts in segmental SNR, CBAK, LSD and DNSMOS. It does not, but for rounding, in the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Longest(NamedTuple):
    """The longest audio that a metric scores as a whole, and why."""

    seconds: float
    why: str


WHOLE = Longest(math.inf, "sums or segments over any length; memory under 1 MB a second")
#: MAXNUTTERANCES, MINUTTLENGTH and JOINSPEECHLGTH of the C code: a 51st utterance is written behind its tables.
PESQ_LONGEST = Longest(
    20,
    "P.862's code has room for 50 utterances and counts one of 0.2 s after a pause of 0.2 s: in 20 s there are never "
    "more, in a longer file more end in wrong values or a crash (P.862.3 wants 8 to 12 s)",
)
MEMORY_LONGEST = Longest(600, "our choice: ten minutes take up to 3 GB")
SQUIM_LONGEST = Longest(20, "our choice: its memory grows with the square of the length, to 3 GB at 20 s")


class Metric(NamedTuple):
    """A metric's function and what a reader must know of it."""

    compute: Callable[[Pair], float]
    title: str  # of a table's column; shown value = raw value x `factor` with `decimals`. Files keep raw values
    unit: str  # of the raw value
    method: str  # all that is needed to compute it again elsewhere, but for the pieces of long audio
    packages: tuple[str, ...] = ()  # that must be installed
    min_sample_rate_hz: int = 1  # below it the metric has no meaning
    factor: float = 1
    decimals: int = 2
    higher_is_better: bool = True
    longest: Longest = WHOLE  # what is longer is scored in pieces
    native: bool = False  # code that can crash: never run in a process that trains or evaluates
    file: str = ""  # name in `files` of the model file that it needs
    #: reads that model; raises ValueError if the file is missing or another model's
    load: Callable[[Mapping[str, str]], Any] | None = None

    @property
    def variant(self) -> str:
        """All that is needed to compute it again elsewhere."""
        if math.isinf(self.longest.seconds):
            return self.method
        return f"{self.method} (audio over {self.longest.seconds:g} s: mean over equal pieces of at most that)"


class Score(NamedTuple):
    """One metric's value of one estimate; NaN with a reason if it failed; the pieces it is the mean of (0: none)."""

    value: float
    failure: str = ""
    pieces: int = 0


class Scores(NamedTuple):
    """Metric values of one estimate (NaN where it failed), the reason of every failure, and pieces if there are any."""

    values: dict[str, float]
    failures: dict[str, str]
    pieces: dict[str, int] = {}

    @classmethod
    def of(cls, found: Mapping[str, Score]) -> Scores:
        """The scores of all metrics together."""
        return cls(
            {name: one.value for name, one in found.items()},
            {name: one.failure for name, one in found.items() if one.failure},
            {name: one.pieces for name, one in found.items() if one.pieces},
        )


def score(
    clean: Signal, estimate: Signal, sample_rate_hz: int, metrics: Sequence[str], files: Mapping[str, str] | None = None
) -> Scores:
    """Scores one estimate ``[N]`` against clean speech ``[N]`` by some of `METRICS`.

    ``files`` holds the model files of the metrics that need one, by name: "dnsmos", "squim".

    Raises:
        ValueError: as `check_metrics`. Bad audio never raises: it gives NaN and a reason.
    """
    check_metrics(metrics, sample_rate_hz, files)
    found = score_each(clean, estimate, sample_rate_hz, metrics, files)
    return Scores.of(dict(zip(metrics, found, strict=True)))


def score_each(
    clean: Signal, estimate: Signal, sample_rate_hz: int, metrics: Sequence[str], files: Mapping[str, str] | None = None
) -> Iterator[Score]:
    """As `score`, each metric as soon as it is there; nothing is checked but the audio."""
    clean, estimate = np.asarray(clean, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    pair = Pair(clean, estimate, sample_rate_hz, files or {})
    for name in metrics:
        yield _in_pieces(name, pair)


def _in_pieces(name: str, pair: Pair) -> Score:
    pieces = [pair] if _problem(pair) else pair.pieces(METRICS[name].longest.seconds)
    found = [_whole(name, piece) for piece in pieces]
    if len(found) == 1:
        return found[0]
    for number, (piece, one) in enumerate(zip(pieces, found, strict=True), 1):
        perfect = Pair(piece.clean, piece.clean, piece.sample_rate_hz, piece.files)
        if one.failure and not _whole(name, perfect).failure:
            return one._replace(failure=f"piece {number} of {len(pieces)}: {one.failure}")
    values = [one.value for one in found if not one.failure]
    return Score(round(math.fsum(values) / len(values), DECIMALS), "", len(values)) if values else found[0]


def _whole(name: str, pair: Pair) -> Score:
    value, reason = math.nan, _problem(pair)
    if not reason:
        try:
            value = float(METRICS[name].compute(pair))
            reason = "" if math.isfinite(value) else f"{name} is {value}"
        except Exception as error:  # pesq alone has three unrelated types; a new one must not stop an evaluation
            reason = _reason(error)
    return Score(math.nan, reason) if reason else Score(round(value, DECIMALS))


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
    return Metric(compute, title, "MOS", variant, ("pesq",), 16000, longest=PESQ_LONGEST, native=True)


def _dnsmos(output: str) -> Metric:
    variant = (
        f"DNSMOS P.835, output {output} of sig_bak_ovr.onnx (not personalised) with its polynomial; estimate at 16 "
        "kHz, level as it is, mean over segments of 9.01 s every second, short files doubled (dnsmos_local.py)"
    )
    return Metric(
        lambda pair: dnsmos.ratings(pair)[output], f"DNSMOS {output}", "MOS", variant, ("onnxruntime",), 16000,
        file="dnsmos", load=dnsmos.session, native=True,
    )  # fmt: skip


def _squim(output: str, title: str, unit: str, **shown: Any) -> Metric:
    variant = (
        f"output {output} of torchaudio's SQUIM_OBJECTIVE (squim_objective_dns2020.pth), from the whole estimate at 16 "
        "kHz alone"
    )
    return Metric(
        lambda pair: squim.estimates(pair)[output], title, unit, variant, ("torchaudio",), 16000,
        file="squim", load=squim.model, longest=SQUIM_LONGEST, **shown,
    )  # fmt: skip


METRICS: dict[str, Metric] = {
    "si_sdr": Metric(
        ratios.si_sdr, "SI-SDR dB", "dB", "plain (mean not removed), clipped to -100 dB, no value from 100 dB"
    ),
    "sdr": Metric(
        ratios.sdr, "SDR dB", "dB",
        "BSSEval v3 SDR, 512 taps, mean not removed, clipped to -100 dB, no value from 100 dB",
        ("torchmetrics",), longest=MEMORY_LONGEST,
    ),
    "seg_snr": Metric(
        ratios.seg_snr, "segSNR dB", "dB",
        "mean over all frames (pauses too) of their SNR clipped to -10..35 dB; 30 ms Hann frames every 7.5 ms",
        longest=MEMORY_LONGEST,
    ),
    "pesq_wb": Metric(
        perceptual.pesq_wb, "PESQ wb", "MOS-LQO", "P.862.2 wide band at 16 kHz", ("pesq",), 16000, decimals=3,
        longest=PESQ_LONGEST, native=True,
    ),
    "pesq_nb": Metric(
        perceptual.pesq_nb, "PESQ nb", "MOS-LQO", "P.862.1 narrow band at 8 kHz", ("pesq",), decimals=3,
        longest=PESQ_LONGEST, native=True,
    ),
    "stoi": Metric(
        perceptual.stoi, "STOI %", "fraction", "STOI at 10 kHz", ("pystoi",), factor=100, longest=MEMORY_LONGEST
    ),
    "estoi": Metric(
        perceptual.estoi, "eSTOI %", "fraction", "extended STOI at 10 kHz", ("pystoi",), factor=100,
        longest=MEMORY_LONGEST,
    ),
    "csig": _composite(composite.csig, "CSIG", "3.093 - 1.029 LLR + 0.603 PESQ - 0.009 WSS", _LLR + _WSS),
    "cbak": _composite(composite.cbak, "CBAK", "1.634 + 0.478 PESQ - 0.007 WSS + 0.063 segSNR", _WSS + _SEG),
    "covl": _composite(composite.covl, "COVL", "1.594 + 0.805 PESQ - 0.512 LLR - 0.007 WSS", _LLR + _WSS),
    "lsd": Metric(
        spectral.lsd, "LSD dB", "dB",
        "mean over frames of the RMS over bins; 32 ms Hann frames every 8 ms, at the audio's sample rate; both log "
        "spectra floored 50 dB below the loudest bin of the clean speech",
        higher_is_better=False, longest=MEMORY_LONGEST,
    ),
    "dnsmos_sig": _dnsmos("SIG"),
    "dnsmos_bak": _dnsmos("BAK"),
    "dnsmos_ovrl": _dnsmos("OVRL"),
    "squim_stoi": _squim("STOI", "SQUIM STOI %", "fraction", factor=100),
    "squim_pesq": _squim("PESQ", "SQUIM PESQ", "MOS-LQO", decimals=3),
    "squim_si_sdr": _squim("SI-SDR", "SQUIM SI-SDR dB", "dB"),
}  # fmt: skip


def _problem(pair: Pair) -> str:
    """The reason why no metric can score this pair; empty if there is none."""
    return pair.once("problem", lambda: _look(pair.clean, pair.estimate))


def _look(clean: np.ndarray, estimate: np.ndarray) -> str:
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
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
