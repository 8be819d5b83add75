"""Composite measures CSIG, CBAK and COVL: predicted ratings of speech distortion, background noise and overall quality.

Hu and Loizou 2008, "Evaluation of Objective Quality Measures for Speech Enhancement" (IEEE TASLP 16(1)): regressions on
PESQ, LLR, WSS and segmental SNR, with the coefficients that the paper gives and that the code of Loizou's book has, and
that code's settings. PESQ is P.862.2 wide band at 16 kHz: the paper fitted narrow-band PESQ at 8 kHz, but the
literature since SEGAN (Pascual et al. 2017) reports them this way, and only so are numbers comparable.
All is computed at 16 kHz and clipped to 1..5, the scale of the ratings.

Ports derived from SEGAN's, MANNER's evaluation among them, remove the mean of both signals and give both the same peak
before segmental SNR; Loizou's code, and this one, take them as they are. Their CBAK is not comparable with ours (3.749
against 4.239 on one file).
"""

from __future__ import annotations

from kdse.metrics.clean_and_estimate import Pair
from kdse.metrics.perceptual import pesq_wb
from kdse.metrics.ratios import seg_snr
from kdse.metrics.spectral import best_mean, llr, wss

RATE_HZ = 16000


def csig(pair: Pair) -> float:
    """Predicted rating of signal distortion: ``3.093 - 1.029 LLR + 0.603 PESQ - 0.009 WSS``, clipped to 1..5."""
    return _rating(3.093 - 1.029 * _llr(pair) + 0.603 * pesq_wb(pair) - 0.009 * _wss(pair))


def cbak(pair: Pair) -> float:
    """Predicted rating of background noise: ``1.634 + 0.478 PESQ - 0.007 WSS + 0.063 segSNR``, clipped to 1..5."""
    return _rating(1.634 + 0.478 * pesq_wb(pair) - 0.007 * _wss(pair) + 0.063 * seg_snr(pair.at(RATE_HZ)))


def covl(pair: Pair) -> float:
    """Predicted overall rating: ``1.594 + 0.805 PESQ - 0.512 LLR - 0.007 WSS``, clipped to 1..5."""
    return _rating(1.594 + 0.805 * pesq_wb(pair) - 0.512 * _llr(pair) - 0.007 * _wss(pair))


def _llr(pair: Pair) -> float:
    return pair.once("llr", lambda: best_mean(llr(pair.at(RATE_HZ))))


def _wss(pair: Pair) -> float:
    return pair.once("wss", lambda: best_mean(wss(pair.at(RATE_HZ))))


def _rating(value: float) -> float:
    return max(1.0, min(5.0, value))
