"""Promises of `kdse.metrics.squim`, with random weights: it is torchaudio's model, found and run as it should be."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torchaudio.models import squim_objective_base

from kdse.metrics import check_metrics, score
from tests.metrics.models import random_squim
from tests.metrics.signals import RATE_HZ, noisy_version, speech_like

NAMES = ("squim_stoi", "squim_pesq", "squim_si_sdr")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return random_squim(tmp_path_factory.mktemp("squim") / "weights.pth")


def test_values_are_those_of_torchaudios_model(weights: str) -> None:
    model = squim_objective_base().eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    noisy = noisy_version(speech_like(), 5.0)
    with torch.inference_mode():
        expected = [float(value) for value in model(torch.from_numpy(noisy)[None])]
    scores = score(speech_like(), noisy, RATE_HZ, NAMES, {"squim": weights})
    assert not scores.failures
    assert [scores.values[name] for name in NAMES] == pytest.approx(expected, abs=1e-5)
    assert 0 <= scores.values["squim_stoi"] <= 1 and 1 <= scores.values["squim_pesq"] <= 4.65


def test_level_and_clean_speech_do_not_count(weights: str) -> None:
    noisy = noisy_version(speech_like(), 5.0)
    first = score(speech_like(), noisy, RATE_HZ, NAMES, {"squim": weights}).values
    assert score(speech_like(), 0.1 * noisy, RATE_HZ, NAMES, {"squim": weights}).values == pytest.approx(
        first, abs=1e-3
    )
    assert score(np.ones(noisy.size), noisy, RATE_HZ, NAMES, {"squim": weights}).values == first


def test_threads_change_no_digit_and_are_given_back(weights: str) -> None:
    noisy = noisy_version(speech_like(), 5.0)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(score(speech_like(), noisy, RATE_HZ, NAMES, {"squim": weights}))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1]


def test_without_a_file_torchs_cache_is_used_and_nothing_is_downloaded(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="squim_objective_dns2020.pth, which are not in torch's cache.*--squim FILE"):
        check_metrics(["squim_pesq"], RATE_HZ)
    cached = tmp_path / "torchaudio" / "models" / "squim_objective_dns2020.pth"
    cached.parent.mkdir(parents=True)
    shutil.copy(weights, cached)
    by_cache = score(speech_like(), speech_like(), RATE_HZ, ["squim_pesq"])
    assert by_cache == score(speech_like(), speech_like(), RATE_HZ, ["squim_pesq"], {"squim": weights})


def test_the_cache_is_where_torchaudio_would_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchaudio.pipelines import SQUIM_OBJECTIVE

    from kdse.metrics.squim import WEIGHTS

    asked = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torchaudio.utils.download._download", lambda key, path, **_: asked.append(path))
    with pytest.raises(FileNotFoundError):
        SQUIM_OBJECTIVE.get_model()
    assert asked == [tmp_path / "torchaudio" / "models" / WEIGHTS]


def test_another_file_is_a_clear_error_before_anything_is_scored(tmp_path: Path) -> None:
    text, other = tmp_path / "text.pth", tmp_path / "other.pth"
    text.write_text("no weights")
    torch.save(torch.nn.Linear(2, 2).state_dict(), other)
    for path, reason in ((text, "torch cannot read it"), (other, "Missing key"), (tmp_path / "no.pth", "no such file")):
        with pytest.raises(ValueError, match=reason) as caught:
            check_metrics(["squim_stoi"], RATE_HZ, {"squim": str(path)})
        assert str(caught.value).startswith(f"--squim {path}: ") and "\n" not in str(caught.value)


def test_what_is_too_short_for_the_network_is_a_failure_with_a_reason(weights: str) -> None:
    scores = score(np.ones(40), np.ones(40), RATE_HZ, NAMES, {"squim": weights})
    assert set(scores.failures) == set(NAMES) and all("\n" not in reason for reason in scores.failures.values())
