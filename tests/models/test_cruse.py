"""CRUSE has the paper's sizes, is causal, streams, and its open choices can be chosen."""

from __future__ import annotations

import pytest
import torch

from kdse.models import Cruse, count_parameters

TINY = [2, 4, 6, 8]

PAPER_SIZES = [
    ([32, 64, 128, 192], 1_867_041),
    ([8, 16, 32, 32], 62_313),
    ([4, 8, 16, 24], 30_101),
    ([8, 32, 64, 64], 242_681),
    ([16, 32, 64, 80], 347_633),
]


@pytest.mark.parametrize(("channels", "parameters"), PAPER_SIZES)
def test_trainable_parameters_are_exactly_the_papers(channels, parameters):
    assert count_parameters(Cruse(channels=channels), trainable_only=True) == parameters


def test_an_all_ones_mask_returns_the_input():
    model = Cruse(channels=TINY)
    torch.nn.init.zeros_(model.decoder[-1].conv.weight)
    torch.nn.init.constant_(model.decoder[-1].conv.bias, 50.0)  # sigmoid(50) is 1 in float32
    noisy = torch.randn(2, 5001)
    estimate = model(noisy)
    assert torch.all(estimate.mask == 1)
    torch.testing.assert_close(estimate.waveform, noisy, atol=1e-5, rtol=0)


@pytest.mark.parametrize("expansion", ["average", "nearest"])
def test_a_constant_mask_is_a_constant_gain_in_every_bin(expansion):
    model = Cruse(channels=TINY, mask_expansion=expansion)
    gain = model.bin_gain(torch.full((1, 1, 3, 80), 0.25))
    torch.testing.assert_close(gain, torch.full((1, 257, 3), 0.25))


def test_no_output_sample_depends_on_input_more_than_the_declared_look_ahead():
    """By gradients: output n sees input n + 511."""
    model = Cruse(channels=TINY).eval()
    noisy = torch.randn(1, 4096, requires_grad=True)
    furthest = []
    for n in range(1500, 1500 + 256, 17):
        (grad,) = torch.autograd.grad(model(noisy).waveform[0, n], noisy)
        furthest.append(int(grad[0].abs().nonzero().max()) - n)
    assert max(furthest) <= model.lookahead_samples == 511


def test_no_frame_depends_on_a_later_frame():
    model = Cruse(channels=TINY).eval()
    features = torch.rand(1, 1, 12, 80, requires_grad=True)
    for t in range(12):
        (grad,) = torch.autograd.grad(model.mel_mask(features)[0, 0, t].sum(), features)
        assert torch.all(grad[0, 0, t + 1 :] == 0) and torch.any(grad[0, 0, t] != 0)


def test_latency_is_one_frame_of_32_ms():
    model = Cruse(channels=TINY)
    assert model.latency_samples / model.sample_rate_hz == 0.032


OPEN_CHOICES = [
    {"window": "hann"},
    {"mel_scale": "slaney"},
    {"mel_norm": "slaney"},
    {"mask_expansion": "nearest"},
    {"norm_over_time": False},
    {"gru_activation": True},
    {"gru_groups": 1},
    {"mask_floor": -20.0},
    {"compression": 0.5},
]


@pytest.mark.parametrize("choice", [{}, *OPEN_CHOICES], ids=str)
def test_streaming_hop_by_hop_equals_the_offline_result(choice):
    torch.manual_seed(0)
    model = Cruse(channels=TINY, **choice).eval()
    noisy = torch.randn(2, 256 * 20)
    offline = model(noisy).waveform
    state, hops = model.initial_state(2), []
    with torch.no_grad():
        for hop in torch.cat([noisy, torch.zeros(2, 256)], dim=1).split(256, dim=1):
            out, state = model.step(hop, state)
            hops.append(out)
    streamed = torch.cat(hops, dim=1)[:, model.latency_samples - model.hop_samples :]
    torch.testing.assert_close(streamed, offline, atol=2e-6, rtol=0)


@pytest.mark.parametrize("choice", [c for c in OPEN_CHOICES if "mask_floor" not in c], ids=str)
def test_each_open_choice_changes_the_result(choice):
    def output(**choices):
        torch.manual_seed(3)
        model = Cruse(channels=TINY, **choices)
        noisy = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
        return model(noisy).waveform

    assert not torch.allclose(output(), output(**choice), atol=1e-7)


def test_the_mask_floor_bounds_the_attenuation():
    model = Cruse(channels=TINY, mask_floor=-20.0)
    torch.testing.assert_close(model.bin_gain(torch.zeros(1, 1, 1, 80)), torch.full((1, 257, 1), 0.1))


@pytest.mark.parametrize("stage", ["output", "norm", "conv"])
def test_taps_of_every_stage_can_be_recorded(stage):
    from kdse.taps import probe, resolve_taps

    model = Cruse(channels=TINY, tap_stage=stage)
    shapes = probe(model, resolve_taps(model, None), 16000)
    assert list(shapes) == [*(f"encoder{i}" for i in range(4)), "bottleneck", *(f"decoder{i}" for i in range(4))]
    assert [s[3] for s in shapes.values()] == [40, 20, 10, 5, 5, 10, 20, 40, 80]
    assert [s[1] for s in shapes.values()] == [2, 4, 6, 8, 8, 6, 4, 2, 1]


def test_cumulative_norm_agrees_with_a_float64_loop():
    from kdse.models.layers import CumulativeLayerNorm

    x = torch.randn(2, 3, 7, 5) * 4 + 2
    y = CumulativeLayerNorm(3)(x)
    for b in range(2):
        for t in range(7):
            seen = x[b, :, : t + 1].double()
            expected = (x[b, :, t].double() - seen.mean()) / (seen.var(unbiased=False) + 1e-5).sqrt()
            torch.testing.assert_close(y[b, :, t].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 255, 256, 257, 511, 4000])
def test_any_length_keeps_its_length(length):
    estimate = Cruse(channels=TINY)(torch.randn(1, length))
    assert estimate.waveform.shape == (1, length) and torch.isfinite(estimate.waveform).all()


def test_silence_gives_silence_and_finite_gradients():
    model = Cruse(channels=TINY)
    wave = model(torch.zeros(1, 3000)).waveform
    wave.square().sum().backward()
    assert torch.all(wave == 0)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "bad",
    [{"channels": [1, 2]}, {"mel_bands": 50}, {"channels": [2, 4, 6, 7], "gru_groups": 4}, {"mel_scale": "bark"},
     {"tap_stage": "middle"}, {"window": "box"}],
    ids=str,
)  # fmt: skip
def test_an_impossible_setting_is_named(bad):
    with pytest.raises(ValueError, match="|".join(bad)):
        Cruse(**bad)
