"""Promises of `kdse.metrics.composite`."""

from __future__ import annotations

import numpy as np
import pytest

import kdse.metrics.perceptual as perceptual
from kdse.metrics import METRICS, score
from kdse.metrics.clean_and_estimate import Pair
from kdse.metrics.spectral import llr, wss
from tests.metrics.signals import RATE_HZ, corpus, noisy_version, speech_like

COMPOSITE = ("csig", "cbak", "covl")
#: CSIG, CBAK, COVL and segmental SNR of noisy files of the VoiceBank test set by the package pysepm_evo 0.1.1 (a Python
#: port of Loizou's code) with PESQ by pesq 0.0.4, and SDR by mir_eval 0.8.2: computed once, outside this project.
OTHER_PACKAGES = {
    "p232_001": (4.280373, 3.261181, 3.582527, 7.161055, 15.47854),
    "p232_189": (3.058589, 2.143618, 2.311787, 0.538319, 6.158275),
    "p257_126": (3.248269, 1.711708, 2.265748, -5.205844, 0.283269),
}


def test_each_is_its_regression_on_pesq_llr_wss_and_segmental_snr() -> None:
    clean = noisy_version(speech_like(), 50.0, seed=9).astype(np.float64)
    noisy = noisy_version(clean, 30.0).astype(np.float64)
    scores = score(clean, noisy, RATE_HZ, [*COMPOSITE, "pesq_wb", "seg_snr"]).values
    pair = Pair(clean, noisy, RATE_HZ)
    kept_llr, kept_wss = (np.mean(sorted(f(pair))[: int(np.floor(0.95 * len(f(pair)) + 0.5))]) for f in (llr, wss))
    pesq, seg_snr = scores["pesq_wb"], scores["seg_snr"]
    assert all(1 < scores[name] < 5 for name in COMPOSITE)
    assert scores["csig"] == pytest.approx(3.093 - 1.029 * kept_llr + 0.603 * pesq - 0.009 * kept_wss, abs=2e-6)
    assert scores["cbak"] == pytest.approx(1.634 + 0.478 * pesq - 0.007 * kept_wss + 0.063 * seg_snr, abs=2e-6)
    assert scores["covl"] == pytest.approx(1.594 + 0.805 * pesq - 0.512 * kept_llr - 0.007 * kept_wss, abs=2e-6)


def test_ratings_stay_in_1_to_5_and_a_copy_is_best() -> None:
    clean = noisy_version(speech_like(), 50.0, seed=9)
    copy = score(clean, clean, RATE_HZ, COMPOSITE).values
    noise = score(clean, 30 * np.random.default_rng(0).standard_normal(clean.size), RATE_HZ, COMPOSITE).values
    assert copy == {"csig": 5.0, "cbak": 5.0, "covl": 5.0}
    assert all(1.0 <= value < 2 for value in noise.values()) and noise["csig"] == noise["covl"] == 1.0


def test_pesq_is_computed_once_for_all_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import pesq

    calls = []
    real = pesq.pesq
    monkeypatch.setattr(pesq, "pesq", lambda *a: calls.append(a[3]) or real(*a))
    clean = speech_like()
    both = score(clean, noisy_version(clean, 5.0), RATE_HZ, ["covl", "pesq_wb", "csig", "cbak", "pesq_nb"])
    assert sorted(calls) == ["nb", "wb"] and not both.failures
    alone = score(clean, noisy_version(clean, 5.0), RATE_HZ, ["cbak"])
    assert alone.values["cbak"] == both.values["cbak"]


def test_other_sample_rates_are_scored_at_16_khz() -> None:
    from scipy.signal import resample_poly

    clean = noisy_version(speech_like(), 40.0, seed=9)
    noisy = noisy_version(clean, 5.0)
    up = score(resample_poly(clean, 3, 1), resample_poly(noisy, 3, 1), 48000, COMPOSITE).values
    back = [resample_poly(resample_poly(x.astype(np.float64), 3, 1), 1, 3) for x in (clean, noisy)]
    assert up == pytest.approx(score(*back, RATE_HZ, COMPOSITE).values, abs=0.02)
    with pytest.raises(ValueError, match="csig needs at least 16000 Hz"):
        score(clean, noisy, 8000, ["csig"])


def test_what_pesq_cannot_do_fails_the_composite_with_its_reason() -> None:
    clean = speech_like()[np.argmax(np.abs(speech_like())) :][:3000]
    scores = score(clean, noisy_version(clean, 5.0), RATE_HZ, [*COMPOSITE, "seg_snr"])
    assert set(scores.failures) == set(COMPOSITE)
    assert all("1/4 of a second" in reason for reason in scores.failures.values())


def test_variants_say_which_pesq_and_settings() -> None:
    for name in COMPOSITE:
        assert "P.862.2 wide band" in METRICS[name].variant and "95%" in METRICS[name].variant
    assert perceptual.pesq_wb is METRICS["pesq_wb"].compute


@pytest.mark.skipif(corpus() is None, reason="needs the real recordings: set KDSE_CORPUS")
@pytest.mark.parametrize("name", OTHER_PACKAGES)
def test_real_files_score_as_by_other_packages(name: str) -> None:
    import soundfile

    clean, noisy = (
        soundfile.read(corpus() / "pairs" / "vbdmd_test" / kind / f"{name}.flac")[0] for kind in ("clean", "noisy")
    )
    metrics = [*COMPOSITE, "seg_snr", "sdr"]
    assert list(score(clean, noisy, RATE_HZ, metrics).values.values()) == pytest.approx(OTHER_PACKAGES[name], abs=2e-6)
