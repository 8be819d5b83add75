"""PESQ and STOI, by the packages pesq and pystoi: models of how a listener hears the difference."""

from __future__ import annotations

import warnings

import numpy as np

from kdse.errors import UserError
from kdse.machine.packages import required
from kdse.metrics.clean_and_estimate import Pair


def pesq_wb(pair: Pair) -> float:
    """PESQ wide band (ITU-T P.862.2, MOS-LQO 1.04 to 4.64) at 16 kHz; other rates are resampled to it."""
    return _pesq(pair, 16000, "wb")


def pesq_nb(pair: Pair) -> float:
    """PESQ narrow band (ITU-T P.862 with P.862.1 mapping) at 8 kHz; other rates are resampled to it."""
    return _pesq(pair, 8000, "nb")


def stoi(pair: Pair, extended: bool = False) -> float:
    """Short-time objective intelligibility (Taal et al. 2011), a fraction of 1."""
    from pystoi import stoi as pystoi

    # eSTOI adds a tiny random dither from numpy's global stream: seed it, and give the caller's stream back
    state = np.random.get_state()
    np.random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Not enough STFT frames")
            value = pystoi(pair.clean, pair.estimate, pair.sample_rate_hz, extended=extended)
    except np.exceptions.AxisError:  # what pystoi raises on less than one frame
        value = 1e-5
    finally:
        np.random.set_state(state)
    if value == 1e-5:  # pystoi's way to say that there is no value
        raise UserError("less than 30 frames of active speech")
    return value


def estoi(pair: Pair) -> float:
    """Extended STOI (Jensen and Taal 2016), a fraction of 1."""
    return stoi(pair, extended=True)


def _pesq(pair: Pair, rate_hz: int, mode: str) -> float:
    pesq = required("pesq", "pesq")

    resampled = pair.at(rate_hz)
    return pair.once(("pesq", mode), lambda: pesq(rate_hz, resampled.clean, resampled.estimate, mode))
