"""Promises of `kdse.metrics.dnsmos`: the plumbing with a tiny graph, the values with the package speechmos if there."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from kdse.metrics import check_metrics, score
from tests.metrics.models import GAIN, OFFSET, tiny_dnsmos
from tests.metrics.signals import RATE_HZ, corpus, noisy_version, speech_like

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

NAMES = ("dnsmos_sig", "dnsmos_bak", "dnsmos_ovrl")
#: The mapping of dnsmos_local.py: quadratic, linear, constant.
POLYNOMIALS = {
    "dnsmos_sig": (-0.08397278, 1.22083953, 0.0052439),
    "dnsmos_bak": (-0.13166888, 1.60915514, -0.39604546),
    "dnsmos_ovrl": (-0.06766283, 1.11546468, 0.04602535),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_dnsmos(tmp_path_factory.mktemp("dnsmos") / "tiny.onnx")


def rated(estimate: np.ndarray, model: str, rate_hz: int = RATE_HZ) -> dict[str, float]:
    scores = score(np.ones(estimate.size), estimate, rate_hz, NAMES, {"dnsmos": model})
    assert not scores.failures
    return scores.values


def expected(segments: list[np.ndarray]) -> dict[str, float]:
    """What the tiny graph gives for these segments, mapped and averaged."""
    mapped = {}
    for (name, (a, b, c)), gain, offset in zip(POLYNOMIALS.items(), GAIN, OFFSET, strict=True):
        raws = [np.abs(segment).mean() * gain + offset for segment in segments]
        mapped[name] = float(np.mean([a * raw**2 + b * raw + c for raw in raws]))
    return mapped


def test_segments_of_9_01_s_start_every_second_and_their_mapped_ratings_are_averaged(model: str) -> None:
    estimate = 0.1 * np.random.default_rng(0).standard_normal(12 * RATE_HZ) * np.linspace(0.1, 2, 12 * RATE_HZ)
    starts = (0, RATE_HZ, 2 * RATE_HZ)
    assert rated(estimate, model) == pytest.approx(expected([estimate[s : s + 144160] for s in starts]), abs=1e-4)


@pytest.mark.parametrize(("samples", "segments"), [(144160, 1), (160000, 1), (175999, 1), (176000, 2)])
def test_the_number_of_segments_is_that_of_the_published_script(model: str, samples: int, segments: int) -> None:
    estimate = np.linspace(0, 1, samples)
    pieces = [estimate[s * RATE_HZ : s * RATE_HZ + 144160] for s in range(segments)]
    assert rated(estimate, model) == pytest.approx(expected(pieces), abs=1e-4)


def test_segments_that_the_published_script_rounds_away_do_not_count(model: str) -> None:
    estimate = np.linspace(0, 1, 26 * RATE_HZ)  # 17 segments, of which 7 and later are a sample short there
    pieces = [estimate[s * RATE_HZ :][:144160] for s in range(7)]
    assert rated(estimate, model) == pytest.approx(expected(pieces), abs=1e-4)


def test_short_estimates_are_doubled_until_they_are_long_enough(model: str) -> None:
    estimate = np.linspace(0, 1, 5 * RATE_HZ - 8)
    doubled = np.concatenate([estimate] * 2)
    assert rated(estimate, model) == pytest.approx(expected([doubled[:144160]]), abs=1e-4)
    three = np.linspace(0, 1, 3 * RATE_HZ)
    pieces = [np.tile(three, 4)[s * RATE_HZ :][:144160] for s in range(3)]
    assert rated(three, model) == pytest.approx(expected(pieces), abs=1e-4)


def test_level_counts_and_clean_speech_does_not(model: str) -> None:
    estimate = speech_like(0, 9.5)
    by_itself = rated(estimate, model)
    other = score(noisy_version(estimate, 0.0), estimate, RATE_HZ, NAMES, {"dnsmos": model})
    assert other.values == by_itself
    assert abs(rated(0.5 * estimate, model)["dnsmos_sig"] - by_itself["dnsmos_sig"]) > 1e-3


def test_other_rates_are_resampled(model: str) -> None:
    from scipy.signal import resample_poly

    estimate = speech_like(0, 9.5)
    up = resample_poly(estimate.astype(np.float64), 3, 1)
    assert rated(up, model, 48000) == pytest.approx(rated(resample_poly(up, 1, 3), model), abs=1e-6)


def test_the_session_is_made_once_and_again_if_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    path = tiny_dnsmos(tmp_path / "model.onnx")
    for _ in range(3):
        rated(speech_like(), path)
    assert len(made) == 1
    options = made[0].get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    tiny_dnsmos(tmp_path / "model.onnx", samples="T")  # any length is allowed
    rated(speech_like(), path)
    assert len(made) == 2


def test_a_missing_or_another_model_is_a_clear_error_before_anything_is_scored(tmp_path: Path) -> None:
    def refused(files: dict[str, str] | None) -> str:
        with pytest.raises(ValueError) as caught:
            check_metrics(["si_sdr", "dnsmos_bak"], RATE_HZ, files)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "--dnsmos FILE" in refused(None) and "sig_bak_ovr.onnx" in refused({"squim": "x"})
    assert "nothing.onnx: no such file" in refused({"dnsmos": str(tmp_path / "nothing.onnx")})
    assert "is not a file" in refused({"dnsmos": str(tmp_path)})
    text = tmp_path / "text.onnx"
    text.write_text("version https://git-lfs.github.com/spec/v1")
    assert "onnxruntime cannot read it" in refused({"dnsmos": str(text)})
    for name, wrong in {"samples": {"samples": 16000}, "outputs": {"outputs": 2}}.items():
        message = refused({"dnsmos": tiny_dnsmos(tmp_path / f"{name}.onnx", **wrong)})
        assert "[1, 144160] -> [1, 3]" in message and "audio" in message
    check_metrics(["si_sdr"], RATE_HZ)  # who does not ask for DNSMOS needs no file


def test_below_16_khz_there_is_no_rating(model: str) -> None:
    with pytest.raises(ValueError, match="dnsmos_sig needs at least 16000 Hz"):
        score(speech_like(), speech_like(), 8000, ["dnsmos_sig"], {"dnsmos": model})


SPEECHMOS = importlib.util.find_spec("speechmos")


@pytest.mark.skipif(SPEECHMOS is None, reason="needs Microsoft's model: pip install speechmos")
class TestWithMicrosoftsModel:
    @pytest.fixture
    def folder(self) -> Path:
        assert SPEECHMOS is not None and SPEECHMOS.origin is not None
        return Path(SPEECHMOS.origin).parent

    @pytest.fixture
    def reference(self, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
        """speechmos.dnsmos. It computes mel features by librosa for another rating (P.808), not compared here."""
        stub = types.ModuleType("librosa")
        stub.feature = types.SimpleNamespace(melspectrogram=lambda **_: np.ones((120, 900)))  # type: ignore[attr-defined]
        stub.power_to_db = lambda spectrum, ref: spectrum  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "librosa", stub)
        monkeypatch.delitem(sys.modules, "speechmos.dnsmos", raising=False)
        return importlib.import_module("speechmos.dnsmos")

    def signals(self) -> list[np.ndarray]:
        made = [noisy_version(speech_like(s, seconds), 5.0) for s, seconds in enumerate((4.6, 11.2))]
        if corpus() is not None:
            import soundfile

            paths = sorted((corpus() / "pairs" / "vbdmd_test" / "noisy").iterdir())[::60]
            made += [soundfile.read(path)[0] for path in paths]
        return made

    def test_values_are_those_of_speechmos(self, folder: Path, reference: types.ModuleType) -> None:
        model = str(folder / "dnsmos_models" / "sig_bak_ovr.onnx")
        for signal in self.signals():
            theirs = reference.run(signal.astype(np.float64), RATE_HZ)
            assert rated(signal, model) == pytest.approx(
                {name: theirs[name.removeprefix("dnsmos_") + "_mos"] for name in NAMES}, abs=1e-4
            )

    def test_the_personalised_model_is_refused(self, folder: Path) -> None:
        with pytest.raises(ValueError, match="personalised"):
            check_metrics(NAMES, RATE_HZ, {"dnsmos": str(folder / "pdnsmos_models" / "sig_bak_ovr.onnx")})
