"""The shared STFT reconstructs exactly and equals torch.stft where both are defined."""

from __future__ import annotations

import pytest
import torch

from kdse.models.stft import Stft, power


@pytest.mark.parametrize("window", ["sqrt_hann", "hann"])
@pytest.mark.parametrize(("n_fft", "hop"), [(512, 256), (512, 128), (400, 100)])
@pytest.mark.parametrize("length", [1, 100, 4000, 4096])
def test_analysis_then_synthesis_is_the_identity(window, n_fft, hop, length):
    stft = Stft(n_fft, hop, window)
    wave = torch.randn(2, length)
    torch.testing.assert_close(stft.inverse(stft(wave), length), wave, atol=2e-6, rtol=0)


@pytest.mark.parametrize("window", ["sqrt_hann", "hann"])
@pytest.mark.parametrize(("hop", "offset"), [(100, 0), (160, 56)])
@pytest.mark.parametrize("length", [1, 399, 4000])
def test_a_window_shorter_than_the_transform_reconstructs_and_agrees_with_rfft(window, hop, offset, length):
    stft = Stft(512, hop, window, window_samples=400, window_offset=offset)
    wave = torch.randn(2, length, dtype=torch.float64)
    spectrum = stft(wave)
    assert spectrum.shape[-1] == stft.frame_count(length) == -(-length // hop) + -(-400 // hop) - 1
    torch.testing.assert_close(stft.inverse(spectrum, length), wave, atol=1e-6, rtol=0)
    first = torch.zeros(2, 512, dtype=torch.float64)
    part = wave[:, :hop]
    first[:, offset + 400 - hop : offset + 400 - hop + part.shape[1]] = part * stft.window[400 - hop :][: part.shape[1]]
    torch.testing.assert_close(spectrum[:, :, 0], torch.fft.rfft(first))


def test_frames_agree_with_torch_stft():
    stft = Stft(512, 256, "sqrt_hann")
    wave = torch.randn(2, 4096)
    padded = torch.nn.functional.pad(wave, (256, 256))
    expected = torch.stft(padded, 512, 256, window=stft.window, center=False, return_complex=True)
    torch.testing.assert_close(stft(wave), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [1, 256, 257, 32000])
def test_frame_count_is_what_the_docstring_says(samples):
    stft = Stft()
    assert stft(torch.zeros(1, samples)).shape[-1] == stft.frame_count(samples) == -(-samples // 256) + 1


def test_autocast_does_not_lower_its_precision():
    stft, wave = Stft(), torch.randn(1, 2048)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spectrum = stft(wave)
        assert spectrum.dtype == torch.complex64 and torch.equal(
            stft.inverse(spectrum, 2048), stft.inverse(stft(wave), 2048)
        )
    assert torch.equal(spectrum, stft(wave))


def test_power_has_the_values_and_the_gradient_of_its_definition():
    spectrum = torch.randn(2, 3, dtype=torch.complex128, requires_grad=True)
    torch.testing.assert_close(power(spectrum), spectrum.abs().square())
    assert torch.autograd.gradcheck(power, spectrum)


@pytest.mark.parametrize("bad", [{"hop": 300}, {"hop": 512}, {"window": "box"}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Stft(**bad)
