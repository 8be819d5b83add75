"""Energy ratios of speech and distortion in dB: SI-SDR, BSSEval SDR and segmental SNR."""

from __future__ import annotations

import math

import numpy as np

from kdse.errors import UserError
from kdse.metrics.clean_and_estimate import Pair, one_thread

#: SI-SDR and SDR end at plus and minus this many dB. Our choice: float32 audio cannot be told from a perfect copy above
#: it, which would be infinite and swamp every mean: that has no value; below it a value is clipped.
LIMIT_DB = 100.0
#: Taps of the filter that SDR forgives (BSSEval).
SDR_TAPS = 512
#: Limits of the SNR of one frame (Hansen and Pellom 1998, and Loizou's code).
SEGMENT_DB = (-10.0, 35.0)
PERFECT = f"the estimate is the clean speech but for level or filter ({LIMIT_DB:g} dB and more)"
EPS = float(np.finfo(np.float64).eps)


def si_sdr(pair: Pair) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, equation 3).

    ``10 log10(|a s|^2 / |a s - e|^2)`` with ``a = <e, s> / <s, s>``. Plain: the mean is not removed, as in the
    corpus' yardsticks (a DC offset is a distortion). Clipped to -100 dB.

    Raises:
        UserError: at 100 dB and more.
    """
    # sums instead of np.dot: BLAS splits a long dot product by thread, which changes the last digits
    target = np.sum(pair.estimate * pair.clean) / np.sum(pair.clean * pair.clean) * pair.clean
    signal, distortion = np.sum(target * target), np.sum((target - pair.estimate) ** 2)
    if distortion <= signal * 10 ** (-LIMIT_DB / 10):
        raise UserError(PERFECT)
    return max(-LIMIT_DB, 10 * math.log10(signal / distortion)) if signal > 0 else -LIMIT_DB


def sdr(pair: Pair) -> float:
    """BSSEval SDR in dB: any distortion by a 512-tap filter of the clean speech is forgiven (Vincent et al. 2006).

    torchmetrics' implementation in float64, mean kept, on one thread. Clipped to -100 dB.

    Raises:
        UserError: for signals shorter than the filter, which it fits whatever they are, and at 100 dB and more.
    """
    import torch
    from torchmetrics.functional.audio import signal_distortion_ratio

    if pair.clean.size < SDR_TAPS:
        raise UserError(f"shorter than SDR's filter of {SDR_TAPS} samples")
    clean, estimate = torch.from_numpy(pair.clean), torch.from_numpy(pair.estimate)
    with one_thread():
        value = float(signal_distortion_ratio(estimate, clean, filter_length=SDR_TAPS))
    if value >= LIMIT_DB:
        raise UserError(PERFECT)
    return max(-LIMIT_DB, value)


def seg_snr(pair: Pair) -> float:
    """Segmental SNR in dB: the mean SNR of frames, each clipped to -10..35 dB (Hansen and Pellom 1998).

    Frames as in the code of Loizou's book: 30 ms with a Hann window, every 7.5 ms (see `Pair.frames`), every frame
    counts. So does silence: where the clean speech is digital silence a frame has -10 dB, whatever the estimate is, and
    pauses with noise pull the mean towards -10 dB. It depends on the estimate's level: 6 dB too loud is an SNR of 0 dB.
    """
    clean, estimate = pair.frames()
    signal, noise = np.sum(clean**2, axis=1), np.sum((clean - estimate) ** 2, axis=1)
    return float(np.mean(np.clip(10 * np.log10(signal / (noise + EPS) + EPS), *SEGMENT_DB)))
