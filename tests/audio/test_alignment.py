"""Promises of `kdse.audio.alignment`: delay and gain are measured right, whatever noise there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdse.audio.alignment import find_delay, item_gains, louder_than_mean, measure_alignment
from kdse.models.probe_speech import speech_like


def shifted(wave: torch.Tensor, delay: int) -> torch.Tensor:
    """The same samples ``delay`` later, by the definition."""
    rows = np.zeros(wave.shape, dtype=np.float64)
    for n in range(wave.shape[1]):
        if 0 <= n - delay < wave.shape[1]:
            rows[:, n] = wave[:, n - delay].numpy()
    return torch.from_numpy(rows).float()


# --- the measurement ---


@pytest.mark.parametrize("delay", [-400, -1, 0, 137, 999])
@pytest.mark.parametrize("gain", [-0.5, 1.0, 30.0])
def test_a_known_delay_and_gain_are_recovered_exactly(delay, gain):
    clean = torch.randn(3, 4000, generator=torch.Generator().manual_seed(1))
    output = gain * shifted(clean, delay)
    for known in (None, delay):
        found = measure_alignment(clean, output, 1000, clean=clean, delay_samples=known)
        assert found.delay_samples == delay
        assert found.gain == pytest.approx(gain, rel=1e-6)
        assert found.correlation == pytest.approx(np.sign(gain), rel=1e-6)


@pytest.mark.parametrize("snr_db", [10, 0, -5])
def test_noise_in_the_reference_changes_neither_delay_nor_gain(snr_db):
    clean = speech_like(16000, 2.0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    noise *= clean.square().mean().sqrt() * 10 ** (-snr_db / 20)
    found = measure_alignment(clean + noise, -0.5 * shifted(clean, 137), 2000)
    assert found.delay_samples == 137
    assert found.gain == pytest.approx(-0.5, rel=0.05)  # regressing on the noisy signal would give -0.12 at -5 dB


@pytest.mark.parametrize(("snr_db", "bias"), [(10, 0.015), (0, 0.1)])
def test_noise_that_the_teacher_left_in_biases_the_gain_little(snr_db, bias):
    clean = speech_like(16000, 2.0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    noise *= clean.square().mean().sqrt() * 10 ** (-snr_db / 20)
    found = measure_alignment(clean + noise, clean + noise / 2, 200)
    assert found.gain == pytest.approx(1, abs=bias)  # over all frames, the quiet ones too, it is 2 % and 17 %


@pytest.mark.parametrize("snr_db", [10, 0, -5])
def test_errors_in_the_output_change_neither_delay_nor_gain_where_clean_speech_is_given(snr_db):
    clean = speech_like(16000, 2.0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    noise *= clean.square().mean().sqrt() * 10 ** (-snr_db / 20)
    found = measure_alignment(clean + noise, 2 * (shifted(clean, -61) + noise), 2000, clean=clean)
    assert found.delay_samples == -61
    assert found.gain == pytest.approx(2, rel=0.05)


def test_a_loud_item_does_not_outvote_the_others():
    items = torch.randn(3, 2000, generator=torch.Generator().manual_seed(4))
    late = torch.cat([shifted(items[:2], 20), items[2:]])
    loud = torch.tensor([[1.0], [1.0], [1000.0]])
    assert find_delay((items * loud).double(), (late * loud).double(), 100) == 20


def test_silent_items_are_left_out_and_silence_alone_is_refused():
    clean = torch.cat([torch.randn(1, 900, generator=torch.Generator().manual_seed(5)), torch.zeros(1, 900)])
    assert measure_alignment(clean, 3 * shifted(clean, 7), 50, clean=clean)[:2] == (7, pytest.approx(3))
    for output in (torch.zeros(2, 900), torch.full((2, 900), torch.nan)):
        with pytest.raises(ValueError, match="silent, or not finite"):
            measure_alignment(clean, output, 50)
    with pytest.raises(ValueError, match="not both"):
        measure_alignment(clean, clean[0], 50)


def test_signals_of_different_length_are_compared_where_both_exist():
    clean = torch.randn(2, 3000, generator=torch.Generator().manual_seed(6))
    late = shifted(torch.nn.functional.pad(clean, (0, 500)), 40)
    for output in (late, late[:, :2500]):
        assert measure_alignment(clean, output, 200, clean=clean)[:2] == (40, pytest.approx(1))


def test_gains_of_items_stay_near_the_known_one_where_there_is_no_speech():
    generator = torch.Generator().manual_seed(7)
    speech = speech_like(16000, 1.0)
    noise = 0.01 * torch.randn(1, 16000, generator=generator)
    noisy = torch.cat([speech + noise, noise, speech, torch.zeros(1, 16000)])
    output = torch.cat([-1.5 * speech, -0.001 * noise, 1.0 * speech, torch.zeros(1, 16000)])
    gains = item_gains(noisy, output, around=-1.0, within=4.0)[:, 0]
    assert gains[0] == pytest.approx(-1.5, rel=0.02)
    assert gains[1] == pytest.approx(-0.25)  # not -0.001, which would turn the residue into full noise
    assert gains[2] == pytest.approx(-4)  # of the wrong sign: made quiet, not inverted
    assert gains[3] == pytest.approx(-1)


def test_loud_frames_are_those_above_the_mean():
    wave = torch.cat([torch.full((1, 512), 0.1), torch.ones(1, 512), torch.full((1, 300), 0.1)], dim=1)
    loud = louder_than_mean(wave)
    assert loud[0, 512:1024].all() and loud.sum() == 512 and loud.shape == wave.shape
