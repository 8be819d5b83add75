"""A stream is resampled as the whole signal is, and every sample is answered within the stated delay."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.signal import resample_poly

from kdse.audio.resampling import ResampleStream

RATES = [(48000, 16000), (16000, 48000), (44100, 16000), (16000, 44100), (11025, 8000), (16001, 16000), (16000, 16001)]


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_every_sample_is_answered_within_the_stated_delay_at_any_pair_of_rates(rate, new_rate):
    """Output m lies at input m * rate / new_rate, and must be out once the input has gone on for the delay."""
    stream, fed, got = ResampleStream(rate, new_rate), 0, 0
    for size in (1, 300, 7, 0, 1024, 511, 33):
        got += stream.push(torch.randn(1, size)).shape[1]
        fed += size
        assert got >= math.floor((fed - 1 - stream.delay_samples) * new_rate / rate) + 1
    assert stream.delay_seconds < 0.002


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
@pytest.mark.parametrize("samples", [0, 1, 3, 2500])
def test_a_stream_that_ended_begins_anew(rate, new_rate, samples):
    stream, divisor = ResampleStream(rate, new_rate, 2), math.gcd(rate, new_rate)
    for _ in range(2):
        signal = torch.randn(2, samples)
        found = torch.cat([stream.push(signal[:, :1000]), stream.push(signal[:, 1000:]), stream.flush()], dim=1)
        if samples == 0:
            assert found.shape == (2, 0)
            continue
        wanted = resample_poly(signal.numpy(), new_rate // divisor, rate // divisor, axis=1)
        torch.testing.assert_close(found, torch.from_numpy(wanted), atol=1e-6, rtol=0)
