"""Promises of `kdse.metrics.registry`."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdse.metrics import METRICS, score
from tests.metrics.models import random_squim, tiny_dnsmos
from tests.metrics.signals import RATE_HZ, corpus, noisy_version, speech_like

ALL = tuple(METRICS)
#: Those that need no model file.
PLAIN = tuple(name for name in METRICS if not METRICS[name].file)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {"dnsmos": tiny_dnsmos(folder / "tiny.onnx"), "squim": random_squim(folder / "random.pth")}


def orthogonal(clean: np.ndarray, seed: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(len(clean))
    return noise - noise @ clean / (clean @ clean) * clean


@pytest.mark.parametrize("expected_db", [-17.0, 0.0, 12.5])
@pytest.mark.parametrize("scale", [1.0, -0.3, 20.0])
def test_si_sdr_is_the_energy_ratio_of_target_and_orthogonal_distortion(expected_db: float, scale: float) -> None:
    clean = speech_like().astype(np.float64)
    distortion = orthogonal(clean)
    distortion *= np.linalg.norm(clean) / np.linalg.norm(distortion) * 10 ** (-expected_db / 20)
    got = score(clean, scale * (clean + distortion), RATE_HZ, ["si_sdr"]).values["si_sdr"]
    assert got == pytest.approx(expected_db, abs=1e-5)


def test_si_sdr_does_not_remove_the_mean() -> None:
    clean = np.sin(2 * np.pi * 5 * np.arange(1600) / 1600)  # zero mean, power 1/2: an offset of 1 is -3.01 dB
    assert score(clean, clean + 1.0, RATE_HZ, ["si_sdr"]).values["si_sdr"] == pytest.approx(
        10 * math.log10(0.5), abs=1e-5
    )


def test_a_perfect_copy_has_no_ratio_instead_of_one_that_decides_a_mean() -> None:
    clean = speech_like()
    scores = score(clean, 0.5 * clean, RATE_HZ, ["si_sdr", "sdr"])
    assert all(math.isnan(value) for value in scores.values.values())
    assert all("the estimate is the clean speech" in scores.failures[name] for name in ("si_sdr", "sdr"))
    nearly = clean + 10 ** (-99 / 20) * orthogonal(clean) * np.linalg.norm(clean) / np.linalg.norm(orthogonal(clean))
    assert score(clean, nearly, RATE_HZ, ["si_sdr"]).values["si_sdr"] == pytest.approx(99, abs=1e-3)


def test_signals_shorter_than_the_filter_of_sdr_have_none() -> None:
    clean = speech_like()[5000:5511]
    for estimate in (noisy_version(clean, 0.0), np.random.default_rng(0).standard_normal(511)):
        scores = score(clean, estimate, RATE_HZ, ["sdr"])
        assert math.isnan(scores.values["sdr"]) and "512 samples" in scores.failures["sdr"]
    assert not score(*np.random.default_rng(0).standard_normal((2, 512)), RATE_HZ, ["sdr"]).failures


def test_long_audio_is_scored_in_equal_pieces_without_those_that_hold_no_speech() -> None:
    clean = np.concatenate([speech_like(1, 15.0), np.zeros(15 * RATE_HZ), speech_like(2, 15.0)])
    estimate = clean + 0.01 * np.random.default_rng(0).standard_normal(clean.size)
    whole = score(clean, estimate, RATE_HZ, ["pesq_wb", "cbak", "stoi"])
    pieces = [
        score(clean[i:j], estimate[i:j], RATE_HZ, ["pesq_wb", "cbak"]) for i, j in ((0, 240000), (480000, 720000))
    ]
    assert whole.pieces == {"pesq_wb": 2, "cbak": 2} and not whole.failures
    for name in ("pesq_wb", "cbak"):
        assert whole.values[name] == pytest.approx(np.mean([piece.values[name] for piece in pieces]), abs=2e-6)
    estimate[480000:] = 0
    assert score(clean, estimate, RATE_HZ, ["pesq_wb"]).failures == {"pesq_wb": "piece 3 of 3: estimate is silent"}


def test_audio_as_long_as_a_metric_takes_is_scored_whole() -> None:
    import pesq

    clean = speech_like(3, 20.0)
    noisy = noisy_version(clean, 5.0)
    scores = score(clean, noisy, RATE_HZ, ["pesq_wb"])
    assert scores.values["pesq_wb"] == pytest.approx(pesq.pesq(RATE_HZ, clean, noisy, "wb"), abs=1e-5)
    assert scores.pieces == {}


def test_the_readme_states_the_longest_audio_of_every_metric() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text().split("scored whole up to")[1]
    rows = [line.strip("|").split("|") for line in text.split("\n\n")[0].splitlines()[2:]]
    stated = {title.strip(): limit.strip() for titles, limit, _ in rows for title in titles.split(",")}
    titles = {"seg_snr": "segmental SNR", "estoi": "eSTOI", "si_sdr": "SI-SDR"}
    for name, metric in METRICS.items():
        title = titles.get(name, name.split("_")[0].upper())
        assert stated[title] == ("any length" if math.isinf(metric.longest.seconds) else f"{metric.longest.seconds} s")


def test_every_metric_states_the_longest_audio_it_takes_and_native_code_is_marked() -> None:
    for name, metric in METRICS.items():
        assert metric.longest.why and (math.isinf(metric.longest.seconds) or "equal pieces" in metric.variant), name
        assert metric.native == bool({"pesq", "onnxruntime"} & set(metric.packages)), name


def test_sdr_is_the_projection_on_512_delayed_copies_of_clean() -> None:
    rng = np.random.default_rng(0)
    clean = rng.standard_normal(4000)
    estimate = np.convolve(clean, rng.standard_normal(30))[:4000] + 2.0 * rng.standard_normal(4000)
    # BSSEval pads both by the filter length and projects the estimate on all delays: a dense least squares
    delays = np.zeros((4000 + 511, 512))
    for delay in range(512):
        delays[delay : delay + 4000, delay] = clean
    padded = np.concatenate([estimate, np.zeros(511)])
    target = delays @ np.linalg.lstsq(delays, padded, rcond=None)[0]
    expected = 10 * np.log10(np.sum(target**2) / np.sum((padded - target) ** 2))
    assert score(clean, estimate, RATE_HZ, ["sdr"]).values["sdr"] == pytest.approx(expected, abs=1e-4)


def test_every_metric_gets_better_with_the_snr() -> None:
    clean = speech_like()
    low, high = (score(clean, noisy_version(clean, snr), RATE_HZ, PLAIN) for snr in (0.0, 20.0))
    assert not low.failures and not high.failures
    assert {m for m in PLAIN if low.values[m] > high.values[m]} == {"lsd"}
    assert [m for m in ALL if not METRICS[m].higher_is_better] == ["lsd"]
    assert 0 < low.values["estoi"] < high.values["stoi"] <= 1


def test_a_copy_of_clean_speech_scores_the_best_value_of_each_metric() -> None:
    clean = noisy_version(speech_like(), 50.0, seed=9)  # without digital silence
    best = {
        "seg_snr": 35, "pesq_wb": 4.644, "pesq_nb": 4.549, "stoi": 1, "estoi": 1,
        "csig": 5, "cbak": 5, "covl": 5, "lsd": 0,
    }  # fmt: skip
    assert score(clean, clean, RATE_HZ, list(best)).values == pytest.approx(best, abs=1e-3)
    assert set(PLAIN) - set(best) == {"si_sdr", "sdr"}  # which would be infinite


def test_level_of_the_estimate_counts_only_where_it_is_said_to() -> None:
    clean = noisy_version(speech_like(), 50.0, seed=9)
    noisy = noisy_version(clean, 10.0)
    normal, quiet = (score(clean, gain * noisy, RATE_HZ, PLAIN).values for gain in (1.0, 0.5))
    counts = {m for m in PLAIN if abs(normal[m] - quiet[m]) > 0.02}
    assert counts == {"seg_snr", "cbak", "lsd"}


def test_tables_know_how_to_show_every_metric() -> None:
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
    shown = {name: (m.title, m.factor, m.decimals) for name, m in METRICS.items()}
    assert shown["pesq_wb"] == ("PESQ wb", 1, 3) and shown["estoi"] == ("eSTOI %", 100, 2)
    assert all((m.factor == 100) == m.title.endswith("%") == (m.unit == "fraction") for m in METRICS.values())
    assert all((m.unit == "dB") == m.title.endswith("dB") for m in METRICS.values())


def test_thread_counts_change_no_digit(files: dict[str, str], tmp_path: Path) -> None:
    # without what loads torch, which has tests of its own (SDR below, SQUIM in test_squim)
    names = [name for name in ALL if name != "sdr" and METRICS[name].file != "squim"]
    clean = speech_like()
    np.save(tmp_path / "pair.npy", [clean, noisy_version(clean, 5.0)])
    code = f"""
import numpy as np
from kdse.metrics import score
print(score(*np.load({str(tmp_path / "pair.npy")!r}), 16000, {names}, {files}))
"""
    results = []
    for threads in ("1", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        results.append(subprocess.check_output([sys.executable, "-c", code], text=True, env=environment))
    assert "nan" not in results[0] and results[0] == results[1]


def test_sdr_is_the_same_on_any_number_of_threads_and_gives_them_back() -> None:
    import torch

    clean = speech_like()
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(score(clean, noisy_version(clean, 5.0), RATE_HZ, ["sdr"]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("clean", "estimate", "reason"),
    [
        (np.zeros(RATE_HZ), speech_like()[:RATE_HZ], "clean is silent"),
        (speech_like()[:RATE_HZ], np.zeros(RATE_HZ), "estimate is silent"),
        (speech_like()[:RATE_HZ], np.full(RATE_HZ, np.nan), "estimate holds NaN"),
        (np.full(RATE_HZ, np.inf), speech_like()[:RATE_HZ], "clean holds NaN or infinity"),
        (speech_like()[:100], speech_like()[:99], "[100]"),
        (np.zeros(0), np.zeros(0), "empty"),
    ],
)
def test_bad_audio_fails_every_metric_with_a_reason(
    clean: np.ndarray, estimate: np.ndarray, reason: str, files: dict[str, str]
) -> None:
    scores = score(clean, estimate, RATE_HZ, ALL, files)
    assert set(scores.failures) == set(ALL)
    assert all(reason in why for why in scores.failures.values())
    assert all(math.isnan(value) for value in scores.values.values())


@pytest.mark.parametrize("samples", [100, 3000])
def test_short_audio_fails_pesq_and_stoi_but_not_si_sdr(samples: int) -> None:
    clean = speech_like()[np.argmax(np.abs(speech_like())) :][:samples]
    scores = score(clean, noisy_version(clean, 5.0), RATE_HZ, ["si_sdr", "pesq_wb", "stoi", "estoi"])
    assert set(scores.failures) == {"pesq_wb", "stoi", "estoi"}
    assert "30 frames" in scores.failures["stoi"]
    assert "1/4 of a second" in scores.failures["pesq_wb"] and "\n" not in scores.failures["pesq_wb"]
    assert math.isfinite(scores.values["si_sdr"])


def test_of_a_few_samples_only_si_sdr_has_a_value(files: dict[str, str]) -> None:
    clean = speech_like()[6000:6100]
    scores = score(clean, noisy_version(clean, 5.0), RATE_HZ, ALL, files)
    assert [name for name, value in scores.values.items() if not math.isnan(value)] == ["si_sdr"]
    assert all(scores.failures[name] for name in set(ALL) - {"si_sdr"})


def test_each_error_of_a_library_becomes_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import pesq

    clean = speech_like()
    for error in (pesq.NoUtterancesError(b"No utterances detected"), ValueError("cannot convert"), MemoryError()):

        def fail(*_: object, error: Exception = error) -> float:
            raise error

        monkeypatch.setattr(pesq, "pesq", fail)
        scores = score(clean, noisy_version(clean, 5.0), RATE_HZ, ["pesq_wb", "si_sdr"])
        assert list(scores.failures) == ["pesq_wb"] and scores.failures["pesq_wb"].startswith(type(error).__name__)
        assert "b'" not in scores.failures["pesq_wb"]


def test_estoi_is_repeatable_and_leaves_numpys_random_stream_alone() -> None:
    clean = speech_like()
    np.random.seed(5)
    expected = np.random.standard_normal()
    np.random.seed(5)
    first = score(clean, noisy_version(clean, 0.0), RATE_HZ, ["estoi"])
    assert np.random.standard_normal() == expected
    assert score(clean, noisy_version(clean, 0.0), RATE_HZ, ["estoi"]) == first


def test_other_sample_rates_score_alike() -> None:
    from scipy.signal import resample_poly

    clean = speech_like()
    noisy = resample_poly(resample_poly(noisy_version(clean, 5.0), 1, 2), 2, 1)
    at_16k = score(clean, noisy, RATE_HZ, ["pesq_wb", "pesq_nb"]).values
    at_48k = score(resample_poly(clean, 3, 1), resample_poly(noisy, 3, 1), 48000, ["pesq_wb", "pesq_nb"]).values
    assert at_48k["pesq_wb"] == pytest.approx(at_16k["pesq_wb"], abs=0.05)
    assert at_48k["pesq_nb"] == pytest.approx(at_16k["pesq_nb"], abs=0.05)


@pytest.mark.parametrize(
    ("metrics", "rate_hz", "message"),
    [
        (["pesq"], 16000, "there is no 'pesq'"),
        ([], 16000, "at least one"),
        (["stoi", "stoi"], 16000, "each once"),
        (["pesq_wb"], 8000, "use pesq_nb"),
    ],
)
def test_a_users_mistake_is_a_clear_error(metrics: list[str], rate_hz: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(speech_like(), speech_like(), rate_hz, metrics)


def test_importing_the_metrics_loads_no_heavy_library() -> None:
    heavy = ("torch", "torchaudio", "pesq", "pystoi", "scipy", "pandas", "onnxruntime")
    code = f"import sys, kdse.metrics; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.integration
@pytest.mark.skipif(corpus() is None, reason="needs the real recordings: set KDSE_CORPUS")
def test_noisy_voicebank_gives_the_yardsticks() -> None:
    import soundfile

    from kdse.metrics import ScorePool

    folder = corpus() / "pairs" / "vbdmd_test"
    metrics = ("si_sdr", "pesq_wb", "stoi", "estoi")
    with ScorePool(metrics, RATE_HZ, workers=2) as pool:
        for path in sorted((folder / "noisy").iterdir()):
            noisy, _ = soundfile.read(path, dtype="float32")
            clean, _ = soundfile.read(folder / "clean" / path.name, dtype="float32")
            pool.submit(path.name, clean, {"noisy": noisy})
        scored = [item.scores["noisy"] for item in pool.collect()]
    assert len(scored) == 110 and not any(s.failures for s in scored)
    mean = {m: float(np.mean([s.values[m] for s in scored])) for m in metrics}
    assert mean["si_sdr"] == pytest.approx(6.043, abs=5e-4)
    assert mean["pesq_wb"] == pytest.approx(1.600, abs=5e-4)
    assert 100 * mean["stoi"] == pytest.approx(89.298, abs=5e-4)
    assert 100 * mean["estoi"] == pytest.approx(72.620, abs=5e-4)


def test_narrow_band_pesq_is_that_of_audio_at_8_khz_and_estoi_is_not_stoi() -> None:
    import pesq
    import pystoi
    from scipy.signal import resample_poly

    clean = speech_like(3, 2.0)
    estimate = noisy_version(clean, 3.0)
    values = score(clean, estimate, RATE_HZ, ["pesq_nb", "stoi", "estoi"]).values
    half = [resample_poly(x, 1, 2) for x in (clean, estimate)]
    assert values["pesq_nb"] == pytest.approx(pesq.pesq(8000, *half, "nb"), abs=1e-5)
    assert values["pesq_nb"] != pytest.approx(pesq.pesq(16000, clean, estimate, "nb"), abs=1e-2)
    assert values["stoi"] == pytest.approx(pystoi.stoi(clean, estimate, RATE_HZ), abs=1e-5)
    assert values["estoi"] == pytest.approx(pystoi.stoi(clean, estimate, RATE_HZ, extended=True), abs=1e-5)
    assert abs(values["stoi"] - values["estoi"]) > 0.02


def test_a_piece_that_the_estimate_alone_spoils_fails_its_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    import pesq

    real = pesq.pesq

    def deaf(rate: int, clean: np.ndarray, estimate: np.ndarray, mode: str) -> float:
        if estimate.max() < 0.01:
            raise pesq.NoUtterancesError(b"No utterances detected")
        return real(rate, clean, estimate, mode)

    monkeypatch.setattr(pesq, "pesq", deaf)
    clean = speech_like(1, 30.0)
    estimate = noisy_version(clean, 20.0) * np.where(np.arange(clean.size) < 240000, 1, 1e-3)
    assert "piece 2 of 2: NoUtterancesError" in score(clean, estimate, RATE_HZ, ["pesq_wb"]).failures["pesq_wb"]
