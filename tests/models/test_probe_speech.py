"""Promises of `kdse.models.probe_speech`: the probe is fixed, and like nothing but itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdse.data.synthesis.speech import Speaker, speech_clip
from kdse.models.probe_speech import speech, speech_like, with_noise

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


def test_the_recorded_probe_is_what_espeak_reads_at_the_stated_levels():
    sentences = {
        "f1": "Fresh paint and sawdust filled the workshop with a pleasant smell.",
        "m2": "He read the contract slowly and underlined every second word.",
    }
    clips = [speech_clip(Speaker(v, "en-us", 150, 50, 55, 1.0), (text,), 11) for v, text in sentences.items()]
    spoken = torch.from_numpy(np.concatenate(clips))
    rows = speech(16000, (-40.0, -18.0), 60.0)
    assert rows.shape == (2, len(spoken))
    assert 20 * rows.square().mean(1).sqrt().log10() == pytest.approx([-40, -18], abs=0.01)
    for row in rows:
        assert torch.nn.functional.cosine_similarity(row, spoken, dim=0) > 0.9999  # (16 bit)


def test_noise_is_as_far_below_every_item_and_orthogonal_to_it():
    clean = speech(16000, (-40.0, -18.0), 1.0).double()
    noise = with_noise(clean, 30.0) - clean
    assert 10 * (clean.square().sum(1) / noise.square().sum(1)).log10() == pytest.approx([30, 30], abs=1e-6)
    assert (clean * noise).sum(1) == pytest.approx([0, 0], abs=1e-9)
