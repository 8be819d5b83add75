"""Mixing the noisy input back: the stated formula, aligned, in memory that does not grow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile
import torch

from kdse.deploy.files import enhance_file
from kdse.deploy.mix import Mix
from tests.deploy.passing import Passing


def through(mix: Mix, noisy: torch.Tensor, enhanced: torch.Tensor, ins: list[int], outs: list[int]) -> torch.Tensor:
    """Feeds the noisy pieces first and takes the enhanced ones after each as far as they are allowed to be out."""
    parts, heard, out = [], 0, iter(enhanced.split(outs, dim=1))
    waiting = next(out, None)
    done = 0
    for piece in mix.hear(iter(noisy.split(ins, dim=1))):
        heard += piece.shape[1]
        while waiting is not None and done + waiting.shape[1] <= heard:
            parts.append(mix.blend(waiting))
            done += waiting.shape[1]
            waiting = next(out, None)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("outs", [[100], [1, 0, 98, 1], [7, 33, 60]], ids=str)
def test_the_result_is_the_weighted_sum_however_the_pieces_are_cut(share, outs):
    torch.manual_seed(0)
    noisy, enhanced = torch.randn(2, 100), torch.randn(2, 100)
    mixed = through(Mix(share), noisy, enhanced.clone(), [13, 0, 40, 47], outs)
    expected = (1 - share) * enhanced.double() + share * noisy.double()
    torch.testing.assert_close(mixed.double(), expected, atol=3e-7, rtol=0)
    if share in (0.0, 1.0):
        assert torch.equal(mixed, noisy if share else enhanced)


def test_inputs_are_left_as_they_are():
    noisy, enhanced = torch.ones(1, 10), torch.zeros(1, 10)
    through(Mix(0.5), noisy, enhanced, [10], [10])
    assert (noisy == 1).all() and (enhanced == 0).all()


def test_the_buffer_holds_no_more_than_the_delay():
    mix, noisy = Mix(0.2), torch.zeros(1, 100)
    pieces, most = mix.hear(noisy for _ in range(1000)), 0
    next(pieces)
    for _ in pieces:  # one piece behind
        mix.blend(torch.zeros(1, 100))
        most = max(most, mix.waiting_samples)
    assert most == 100


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_what_a_gain_takes_away_stays_above_the_stated_limit(share):
    mix = Mix(share)
    for gain in (0.0, 0.3, 1.0):
        total = float(through(mix, torch.ones(1, 1), torch.full((1, 1), gain), [1], [1]))
        assert 20 * math.log10(total) >= -mix.limit_db - 1e-5
        assert gain or 20 * math.log10(total) == pytest.approx(-mix.limit_db, abs=1e-4)
    assert Mix(0).limit_db == math.inf and Mix(1).limit_db == 0


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="--mix"):
        Mix(share)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("settings", [{}, {"stream": True}, {"chunk_seconds": 0.3}], ids=str)
def test_half_of_a_file_is_taken_away_where_the_model_returns_silence(tmp_path, rate, settings):
    wave = 0.1 * np.random.default_rng(0).standard_normal((rate + 3, 2)).astype(np.float32)
    soundfile.write(tmp_path / "in.wav", wave, rate, subtype="FLOAT")
    enhance_file(Passing(gain=0.0), tmp_path / "in.wav", tmp_path / "out.wav", mix=0.5, **settings)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "out.wav", dtype="float32")[0], 0.5 * wave)


@pytest.mark.parametrize(("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_24"), ("a.wav", "FLOAT")])
def test_a_mix_of_one_is_the_input_itself_at_its_own_rate(tmp_path, name, subtype):
    wave = 0.3 * np.random.default_rng(1).standard_normal((30_001, 2))
    soundfile.write(tmp_path / name, wave, 48000, subtype=subtype)
    enhance_file(Passing(gain=0.3), tmp_path / name, tmp_path / "out" / name, mix=1.0)
    before, after = (soundfile.read(path, dtype="int32")[0] for path in (tmp_path / name, tmp_path / "out" / name))
    np.testing.assert_array_equal(before, after)
