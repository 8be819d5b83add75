"""Log-spectral distance, log-likelihood ratio and weighted spectral slope: how far apart two spectra are.

LLR and WSS have no sample rate of their own; the composite measures use them at 16 kHz. They follow the definitions and
settings of the code that comes with Loizou, "Speech Enhancement: Theory and Practice" (2007), which published values
of the composite measures are made with.
"""

from __future__ import annotations

import numpy as np

from kdse.errors import UserError
from kdse.metrics.clean_and_estimate import Pair, cut

#: Log spectra of `lsd` are floored this far below the clean speech's loudest bin.
LSD_RANGE_DB = 50.0
#: Order of the linear prediction of `llr` at 10 kHz and above (10 below).
LPC_ORDER = 16
#: A prediction error below this part of a frame's energy is rounding noise, and so is the rest of the recursion.
LPC_FLOOR = 1e-12
#: A frame with less energy is digital silence.
SILENT_FRAME = 1e-16
#: Share of the frames, the best ones, that the composite measures average LLR and WSS over.
KEPT = 0.95
#: Centres and bandwidths in Hz of the 25 critical bands of WSS (Loizou's table).
CENTRES_HZ = np.array(
    [50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72, 1442.54,
     1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63]
)  # fmt: skip
BANDWIDTHS_HZ = np.array(
    [70, 70, 70, 70, 70, 70, 70, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154,
     183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136]
)  # fmt: skip


def lsd(pair: Pair) -> float:
    """Log-spectral distance in dB, lower is better: ``mean_t sqrt(mean_f (S - E)^2)`` of log spectra S and E in dB.

    ``20 log10`` of the magnitudes of frames of 32 ms with a periodic Hann window, every 8 ms, no padding, FFT as long
    as the frame, all bins from 0 to Nyquist. Both log spectra are floored 50 dB below the loudest bin of the clean
    speech: the range of 50 dB is that of Cohen and Gannot 2008 (Springer Handbook of Speech Processing, chapter 44);
    one floor for both signals, window and hop are our choice. A level error of g dB counts with up to g dB.
    """
    size = int(0.032 * pair.sample_rate_hz + 0.5)
    hop = size // 4
    if hop < 1 or pair.clean.size < size:
        raise UserError("shorter than 32 ms")
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(size) / size))
    clean, estimate = (np.abs(np.fft.rfft(cut(x, size, hop) * window)) for x in (pair.clean, pair.estimate))
    if clean.max() == 0:
        raise UserError("clean is silent in all frames")
    floor = clean.max() * 10 ** (-LSD_RANGE_DB / 20)
    distance_db = 20 * np.log10(np.maximum(clean, floor) / np.maximum(estimate, floor))
    return float(np.mean(np.sqrt(np.mean(distance_db**2, axis=1))))


def llr(pair: Pair) -> np.ndarray:
    """Log-likelihood ratio of every frame ``[T]``: how much worse the estimate's all-pole model predicts clean speech.

    ``ln(a_e' R_s a_e / a_s' R_s a_s)`` with the clean speech's autocorrelation R_s and prediction coefficients of order
    16 (autocorrelation method), not clipped, as in the composite measures. Frames as in `Pair.frames`.

    Our choice, where the published code takes logarithms of rounding noise: frames in which the clean speech is digital
    silence are left out; an estimate that is digital silence there has a flat model; a recursion ends when it has
    predicted all but 1e-12 of the energy.
    """
    order = LPC_ORDER if pair.sample_rate_hz >= 10000 else 10
    clean, estimate = (_autocorrelation(frames, order) for frames in pair.frames())
    heard = clean[:, 0] >= SILENT_FRAME
    if not heard.any():
        raise UserError("clean is silent in all frames")
    clean, estimate = clean[heard], estimate[heard]
    ideal, got = (_prediction_energy(_predictor(r), clean) for r in (clean, estimate))
    floor = LPC_FLOOR * clean[:, 0]
    return np.log(np.maximum(got, floor) / np.maximum(ideal, floor))


def wss(pair: Pair) -> np.ndarray:
    """Weighted spectral slope distance of every frame ``[T]`` (Klatt 1982) on 25 critical bands.

    Squared differences of the slopes between neighbouring bands, weighted by how close a band is to the loudest band
    (20 dB) and to the nearest peak (1 dB). Two facts of the published code are kept, as published values have them:
    the nearest peak upwards is read one band below it, and bands end at 3.6 kHz whatever the sample rate.
    """
    energy_db = [_band_energies_db(frames, pair.sample_rate_hz) for frames in pair.frames()]
    slopes = [np.diff(e) for e in energy_db]
    weight = sum(_slope_weights(e, s) for e, s in zip(energy_db, slopes, strict=True)) / 2
    return np.sum(weight * (slopes[0] - slopes[1]) ** 2, axis=1) / np.sum(weight, axis=1)


def best_mean(values: np.ndarray) -> float:
    """The mean of the lowest 95% of the frames, as the composite measures take it.

    Their number is rounded half up, as MATLAB does it; Python ports that round half to even differ by a frame in some
    files (up to 0.012 in CSIG).
    """
    return float(np.mean(np.sort(values)[: int(values.size * KEPT + 0.5)]))


def _autocorrelation(frames: np.ndarray, order: int) -> np.ndarray:
    """Lags 0 to order, ``[T, order + 1]``."""
    size = frames.shape[1]
    lags = [np.einsum("tn,tn->t", frames[:, : size - k], frames[:, k:]) for k in range(order + 1)]
    return np.stack(lags, axis=1)


def _predictor(lags: np.ndarray) -> np.ndarray:
    """Prediction error filters ``[T, order + 1]``, first tap 1, by Levinson's recursion over all frames at once."""
    filters = np.zeros_like(lags)
    filters[:, 0] = 1
    error = lags[:, 0].copy()
    floor = np.maximum(LPC_FLOOR * error, SILENT_FRAME)
    for k in range(1, lags.shape[1]):
        reflection = -np.sum(filters[:, :k] * lags[:, k:0:-1], axis=1)
        goes_on = error > floor
        error[~goes_on] = 0  # once ended, always ended
        reflection = np.where(goes_on, reflection / np.where(goes_on, error, 1), 0)[:, None]
        filters[:, 1 : k + 1] += reflection * filters[:, k - 1 :: -1][:, :k]
        error = error * (1 - reflection[:, 0] ** 2)
    return filters


def _prediction_energy(filters: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """``a' R a`` of every frame: the energy that filters ``a`` leave of signals with these autocorrelations."""
    steps = np.arange(lags.shape[1])
    matrix = lags[:, np.abs(steps[:, None] - steps)]
    return np.einsum("ti,tij,tj->t", filters, matrix, filters)


def _band_energies_db(frames: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Energies ``[T, 25]`` of the critical bands in dB, floored at -100 dB."""
    points = 2 ** int(np.ceil(np.log2(2 * frames.shape[1])))
    spectrum = np.fft.rfft(frames, points)[:, : points // 2]
    power = spectrum.real**2 + spectrum.imag**2
    centres, widths = (hz / (sample_rate_hz / 2) * (points // 2) for hz in (CENTRES_HZ, BANDWIDTHS_HZ))
    distance = (np.arange(points // 2) - np.floor(centres)[:, None]) / widths[:, None]
    bands = np.exp(-11 * distance**2 + np.log(BANDWIDTHS_HZ[0] / BANDWIDTHS_HZ)[:, None])
    bands[bands <= np.exp(-30 / (2 * 2.303))] = 0  # beyond the -30 dB point
    used = int(np.flatnonzero(bands.any(axis=0))[-1]) + 1
    # einsum, not a matrix product: BLAS' order of summation depends on the number of threads
    energy = np.einsum("tf,bf->tb", power[:, :used], np.ascontiguousarray(bands[:, :used]))
    return 10 * np.log10(np.maximum(energy, 1e-10))


def _slope_weights(energy_db: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Klatt's weights ``[T, 24]`` of the slopes above bands 1 to 24."""
    below, rises = energy_db[:, :-1], slopes > 0
    peak = below.copy()
    for i in range(below.shape[1] - 2, -1, -1):  # up, while the spectrum rises
        peak[:, i] = np.where(rises[:, i] & rises[:, i + 1], peak[:, i + 1], peak[:, i])
    for i in range(1, below.shape[1]):  # down, while it falls
        peak[:, i] = np.where(~rises[:, i] & ~rises[:, i - 1], peak[:, i - 1], peak[:, i])
    loudest = energy_db.max(axis=1, keepdims=True)
    return 20 / (20 + loudest - below) / (1 + peak - below)
