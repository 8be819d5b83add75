"""Supervised losses agree with plain float64 loops, torchmetrics or a closed form, and survive silence."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from kdse.losses import (
    CompressedSpectral,
    MultiResolutionStft,
    PhaseSensitive,
    SiSdr,
    WeightedSum,
    compressed_spectral_loss,
    phase_sensitive_loss,
    si_sdr,
)
from kdse.models.base import Estimate

ALL = [PhaseSensitive, CompressedSpectral, MultiResolutionStft, SiSdr]


def spectra(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, dtype=torch.complex128, generator=generator) for _ in range(count)]


def waves(samples: int = 4000) -> tuple[Estimate, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(2, samples, generator=generator) * 0.1
    noisy = clean + 0.1 * torch.randn(2, samples, generator=generator)
    return Estimate(0.7 * noisy), clean, noisy


@pytest.mark.parametrize("truncate", [False, True])
def test_phase_sensitive_agrees_with_a_loop(truncate):
    enhanced, clean, noisy = spectra(3)
    total = 0.0
    for m, s, y in zip(enhanced.flatten().tolist(), clean.flatten().tolist(), noisy.flatten().tolist(), strict=True):
        target = abs(s) * math.cos(cmath.phase(s) - cmath.phase(y))
        if truncate:
            target = min(max(target, 0.0), abs(y))
        total += (abs(m) - target) ** 2
    value = phase_sensitive_loss(enhanced.abs(), clean, noisy, truncate)
    assert value.item() == pytest.approx(total / enhanced.numel(), rel=1e-12)


def test_compressed_spectral_agrees_with_a_loop():
    enhanced, clean = spectra(2)
    c, b, total = 0.3, 0.3, 0.0
    for e, s in zip(enhanced.flatten().tolist(), clean.flatten().tolist(), strict=True):
        total += (1 - b) * (abs(e) ** c - abs(s) ** c) ** 2
        total += b * abs(cmath.rect(abs(e) ** c, cmath.phase(e)) - cmath.rect(abs(s) ** c, cmath.phase(s))) ** 2
    value = compressed_spectral_loss(enhanced, clean, c, b)
    assert value.item() == pytest.approx(total / enhanced.numel(), rel=1e-9)


def test_multi_resolution_stft_agrees_with_numpy_frames():
    estimate, clean, noisy = waves(1000)
    n_fft, hop, length = 64, 16, 48
    window = torch.zeros(n_fft, dtype=torch.float64)
    window[8:56] = torch.hann_window(length, dtype=torch.float64)  # a short window sits in the middle of the transform

    def magnitude(wave: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(wave.double(), (n_fft // 2, n_fft // 2))
        return torch.stack([torch.fft.rfft(f * window).abs() for f in padded.unfold(-1, n_fft, hop).unbind(1)], dim=-1)

    ours, target = magnitude(estimate.waveform), magnitude(clean)
    convergence = sum((target[i] - ours[i]).norm() / target[i].norm() for i in range(2)) / 2
    distance = (target.log() - ours.log()).abs().mean()
    value = MultiResolutionStft([n_fft], [hop], [length])(estimate, clean, noisy)
    assert value.item() == pytest.approx((convergence + distance).item(), rel=1e-3)  # magnitudes have a floor


def test_si_sdr_agrees_with_torchmetrics():
    estimate, clean, _ = waves()
    expected = scale_invariant_signal_distortion_ratio(estimate.waveform.double(), clean.double(), zero_mean=False)
    torch.testing.assert_close(si_sdr(estimate.waveform, clean).double(), expected, atol=1e-3, rtol=0)


def test_si_sdr_ignores_scale_and_is_bounded_for_a_perfect_estimate():
    _, clean, noisy = waves()
    torch.testing.assert_close(si_sdr(3 * noisy, clean), si_sdr(noisy, 0.2 * clean), atol=1e-4, rtol=0)
    assert 60 < si_sdr(clean, clean).min() <= 80.1


@pytest.mark.parametrize("loss", [PhaseSensitive, CompressedSpectral, MultiResolutionStft])
def test_a_perfect_estimate_costs_nothing(loss):
    _, clean, _ = waves()
    assert loss()(Estimate(clean), clean, clean).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", [PhaseSensitive, CompressedSpectral])
def test_normalised_losses_do_not_depend_on_the_recording_level(loss):
    estimate, clean, noisy = waves()
    loud, quiet = (loss()(Estimate(g * estimate.waveform), g * clean, g * noisy).item() for g in (1.0, 0.01))
    assert quiet == pytest.approx(loud, rel=1e-3)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("silent", ["estimate", "clean", "everything"])
def test_silence_gives_a_finite_value_and_finite_gradients(loss, silent):
    estimate, clean, noisy = waves()
    wave = (estimate.waveform * (0 if silent != "clean" else 1)).requires_grad_()
    clean = clean * (0 if silent != "estimate" else 1)
    noisy = noisy * (0 if silent == "everything" else 1)
    value = loss()(Estimate(wave), clean, noisy)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(wave.grad).all()


@pytest.mark.parametrize("loss", ALL)
def test_going_down_the_gradient_brings_the_estimate_closer(loss):
    estimate, clean, noisy = waves()
    wave = estimate.waveform.clone().requires_grad_()
    module = loss()
    before = module(Estimate(wave), clean, noisy)
    (gradient,) = torch.autograd.grad(before, wave)
    after = module(Estimate(wave.detach() - 1e-3 * gradient / gradient.norm()), clean, noisy)
    assert after < before


def test_a_weighted_sum_is_the_sum_of_weighted_parts_and_keeps_them():
    estimate, clean, noisy = waves()
    both = WeightedSum({"psa": PhaseSensitive(), "si_sdr": SiSdr()}, {"si_sdr": 0.1})
    value = both(estimate, clean, noisy)
    psa, ratio = PhaseSensitive()(estimate, clean, noisy), SiSdr()(estimate, clean, noisy)
    torch.testing.assert_close(value, psa + 0.1 * ratio)
    torch.testing.assert_close(both.parts["si_sdr"], ratio)


def test_a_weight_without_its_loss_is_named():
    with pytest.raises(ValueError, match="pesq"):
        WeightedSum({"psa": PhaseSensitive()}, {"pesq": 1.0})
