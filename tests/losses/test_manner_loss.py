"""MANNER's loss agrees with a float64 loop over its equation and survives silence."""

from __future__ import annotations

import math

import pytest
import torch

from kdse.losses.manner import RESOLUTIONS, MannerLoss, manner_loss
from kdse.models.base import Estimate

SMALL = [(64, 16, 48), (128, 24, 100)]


def waves(samples: int = 700, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Estimate, clean and noisy of three items with different speech-to-noise ratios."""
    generator = torch.Generator().manual_seed(0)
    clean, noise, error = (torch.randn(3, samples, generator=generator, dtype=dtype) for _ in range(3))
    noise = noise * torch.tensor([[0.1], [1.0], [4.0]], dtype=dtype)
    return [clean + 0.3 * error + 0.2 * noise, clean, clean + noise]


def magnitudes(wave: torch.Tensor, n_fft: int, hop: int, length: int) -> torch.Tensor:
    """Centred frames of one wave, by hand: ``[T, F]``."""
    window = torch.zeros(n_fft, dtype=torch.float64)
    start = (n_fft - length) // 2  # a short window sits in the middle of its transform
    for i in range(length):
        window[start + i] = 0.5 - 0.5 * math.cos(2 * math.pi * i / length)
    zeros = torch.zeros(n_fft // 2, dtype=torch.float64)
    padded = torch.cat([zeros, wave, zeros])
    frames = [padded[i : i + n_fft] * window for i in range(0, len(padded) - n_fft + 1, hop)]
    return torch.stack([torch.fft.rfft(frame).abs() for frame in frames]).clamp_min(math.sqrt(1e-7))


def loop_distance(target: torch.Tensor, estimate: torch.Tensor, sc: float, lm: float) -> float:
    total = (target - estimate).abs().sum().item() / len(target)
    for resolution in SMALL:
        a, b = magnitudes(target, *resolution), magnitudes(estimate, *resolution)
        convergence = math.sqrt(((a - b) ** 2).sum().item()) / math.sqrt((a**2).sum().item())
        distance = sum(abs(math.log(x) - math.log(y)) for x, y in zip(a.flatten(), b.flatten(), strict=True))
        total += (sc * convergence + lm * distance / a.numel()) / len(SMALL)
    return total


@pytest.mark.parametrize(("sc", "lm"), [(0.5, 0.5), (2.0, 0.0), (0.0, 0.1)])
def test_the_loss_agrees_with_a_float64_loop(sc, lm):
    total = 0.0
    for estimate, clean, noisy in zip(*waves(), strict=True):
        noise = noisy - clean
        speech_energy = sum(float(v) ** 2 for v in clean)
        alpha = speech_energy / (speech_energy + sum(float(v) ** 2 for v in noise) + 2e-7)
        total += alpha * loop_distance(clean, estimate, sc, lm)
        total += (1 - alpha) * loop_distance(noise, noisy - estimate, sc, lm)
    assert manner_loss(*waves(), SMALL, sc, lm).item() == pytest.approx(total / 3, rel=1e-9)


def test_the_module_has_the_published_settings():
    estimate, clean, noisy = waves(5000)
    value = MannerLoss()(Estimate(estimate.float()), clean.float(), noisy.float())
    assert value.item() == pytest.approx(manner_loss(estimate, clean, noisy).item(), rel=1e-4)
    assert sorted(RESOLUTIONS) == [(512, 50, 240), (1024, 120, 600), (2048, 240, 1200)]


def test_each_item_counts_alike_whatever_its_level():
    """The weight alpha and both norms are per item: a batch is the mean of its items."""
    estimate, clean, noisy = waves()
    scale = torch.tensor([[1.0], [100.0], [0.01]], dtype=torch.float64)
    batch = [scale * wave for wave in (estimate, clean, noisy)]
    alone = [manner_loss(*(wave[i : i + 1] for wave in batch), SMALL).item() for i in range(3)]
    assert manner_loss(*batch, SMALL).item() == pytest.approx(sum(alone) / 3, rel=1e-12)


def test_a_perfect_estimate_costs_nothing_and_has_a_finite_gradient():
    _, clean, noisy = waves()
    estimate = clean.clone().requires_grad_()
    loss = manner_loss(estimate, clean, noisy, SMALL)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert estimate.grad is not None and torch.isfinite(estimate.grad).all()


@pytest.mark.parametrize("silent", ["all", "clean", "estimate", "noise"])
@pytest.mark.parametrize("samples", [1, 100, 3001])
def test_silence_and_short_clips_give_a_finite_loss_and_gradient(silent, samples):
    estimate, clean, noisy = waves(samples, torch.float32)
    if silent in ("all", "clean"):
        clean = torch.zeros_like(clean)
    if silent in ("all", "estimate"):
        estimate = torch.zeros_like(estimate)
    noisy = clean if silent in ("all", "noise") else noisy
    estimate = estimate.requires_grad_()
    loss = MannerLoss()(Estimate(estimate), clean, noisy)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(estimate.grad).all()


def test_wrong_resolutions_are_refused_by_name():
    with pytest.raises(ValueError, match="equally many"):
        MannerLoss(n_ffts=[512], hops=[50, 120])
    with pytest.raises(ValueError, match="at most as long"):
        MannerLoss(n_ffts=[512], hops=[50], windows=[600])
