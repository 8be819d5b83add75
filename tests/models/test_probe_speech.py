"""Promises of `kdse.models.probe_speech`: the probe is fixed, and like nothing but itself."""

from __future__ import annotations

import pytest
import torch

from kdse.models.probe_speech import speech_like, with_noise

# --- the probe ---


def test_the_probe_is_the_same_every_time_and_at_the_stated_levels():
    state = torch.get_rng_state()
    clean = speech_like(16000, 4.0)
    noisy = with_noise(clean)
    assert torch.equal(clean, speech_like(16000, 4.0)) and torch.equal(noisy, with_noise(clean))
    assert torch.equal(state, torch.get_rng_state())
    assert 10 * torch.log10(clean.square().mean()).item() == pytest.approx(-25, abs=0.01)
    assert 10 * torch.log10(clean.square().mean() / (noisy - clean).square().mean()).item() == pytest.approx(
        20, abs=0.1
    )
    assert clean.abs().max() < 1


def test_the_probe_resembles_itself_at_no_other_delay():
    clean = speech_like(16000, 4.0).double()
    spectrum = torch.fft.rfft(clean, 2 * clean.shape[1]).abs().square()
    lags = torch.fft.irfft(spectrum)[0]
    assert lags[20:4000].abs().max() < 0.75 * lags[0]
