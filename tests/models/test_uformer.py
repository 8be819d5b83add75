"""Uformer has the public model's size and masks, sees the whole signal, and shows the branch one asks for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from kdse.models.budget import count_parameters, find_widths
from kdse.models.uformer import Uformer
from kdse.models.uformer_layers import AxisAttention, DilatedConv, FeedForward, fuse
from kdse.taps import TapRecorder, probe, resolve_taps

TINY: dict[str, Any] = {
    "channels": [1, 2, 2, 3, 3, 4],
    "attention_channels": 3,
    "ff_channels": 4,
    "dilated_channels": 2,
    "dilated_layers": 2,
}


def tiny(seed: int = 0, **changes: Any) -> Uformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Uformer(**{**TINY, **changes})


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise64(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def as_complex(stacked: torch.Tensor) -> torch.Tensor:
    return torch.complex(*stacked.chunk(2))


# --- size ---


def closed_form(channels, attention, ff, dilated, layers):
    """Parameters by hand: a complex map has two real ones, everything else is shared by both parts."""
    bands = 0
    widths = [1, *channels]
    for a, b in pairwise(widths):
        down, up = a * b * 10 + b, 2 * b * a * 10 + a
        bands += 3 * (down + up) + 2 * (2 * b + 1) + 2 * (2 * a + 1)
    bands -= 2 * (2 * 1 + 1)  # the last layer of the decoder has neither norm nor PReLU
    c = channels[-1]

    def dense(n, m):
        return n * m + m

    feed_forward = 3 * (dense(c, ff) + dense(ff, c)) + 2 * (2 * c + 1)
    attend = 9 * 3 * dense(c, attention) + 3 * dense(attention, c) + 2 * (2 * c + 2 * attention + 2 * c + 1)
    convs = 3 * (dense(c, dilated) + 2 * (9 * dilated**2 + dilated) + dense(dilated, c)) + 2 * (2 * c + 1 + 2 * dilated)
    return bands + 2 * feed_forward + 2 * attend + layers * convs + 2 * 2 * c


def test_trainable_parameters_are_exactly_the_public_models():
    with torch.device("meta"):
        model = Uformer()
    assert count_parameters(model, trainable_only=True) == 3_336_049
    assert closed_form([8, 16, 32, 64, 128, 128], 16, 64, 32, 8) == 3_336_049


def test_parameters_of_other_widths_follow_the_closed_form():
    assert count_parameters(tiny()) == closed_form([1, 2, 2, 3, 3, 4], 3, 4, 2, 2)


def test_a_compressed_student_is_near_the_asked_size_and_runs():
    with torch.device("meta"):
        teacher = Uformer()
    found = find_widths(teacher, 63)
    assert abs(found.ratio / 63 - 1) < 0.02
    student = Uformer(**found.init_args).eval()
    assert count_parameters(student) == found.parameters
    with torch.no_grad():
        assert student(noise(1, 2000)).waveform.isfinite().all()


# --- front end and masks against polar coordinates ---


def test_features_are_the_compressed_spectrum_and_magnitude():
    spectrum = torch.complex(noise64(2, 257, 7), noise64(2, 257, 7, seed=1))
    stacked, magnitude = tiny().features(spectrum)
    expected = torch.polar(spectrum.abs().sqrt(), spectrum.angle())[:, 1:].transpose(1, 2)
    torch.testing.assert_close(as_complex(stacked).squeeze(1), expected)
    torch.testing.assert_close(magnitude.squeeze(1), expected.abs())


def test_masks_act_as_the_mean_of_compressed_magnitudes_and_the_sum_of_phases():
    spectrum = torch.complex(noise64(2, 257, 7), noise64(2, 257, 7, seed=1))
    stacked, magnitude = noise64(4, 1, 7, 256, seed=2), noise64(2, 1, 7, 256, seed=3)
    mask = as_complex(stacked).squeeze(1).transpose(1, 2)
    noisy = spectrum[:, 1:]
    by_complex = noisy.abs().sqrt() * mask.abs().tanh()
    by_magnitude = noisy.abs().sqrt() * torch.sigmoid(magnitude).squeeze(1).transpose(1, 2)
    expected = torch.polar(((by_complex + by_magnitude) / 2).square(), noisy.angle() + mask.angle())
    enhanced = spectrum * tiny().mask(stacked, magnitude)
    torch.testing.assert_close(enhanced[:, 1:], expected)
    assert torch.all(enhanced[:, 0] == 0)


def test_masks_of_one_return_the_input_without_its_dc_bin():
    model = tiny().eval()
    last = model.decoder[-1]
    for conv, bias in (
        (last.complex_branch.real.conv, 24.5),
        (last.complex_branch.imag.conv, -25.5),
        (last.magnitude_branch.conv, 50.0),
    ):
        nn.init.zeros_(conv.weight)
        nn.init.constant_(conv.bias, bias)  # the complex mask is 50 - i, and the fusion adds 1 + i
    noisy = noise(2, 3001)
    spectrum = model.stft(noisy)
    spectrum[:, 0] = 0
    torch.testing.assert_close(model(noisy).waveform, model.stft.inverse(spectrum, 3001), atol=1e-5, rtol=0)
    time = torch.arange(3001) / 16000
    tone = torch.sin(2 * torch.pi * 3000 * time)[None]
    middle = slice(400, 2600)  # the tone's ends do leak into the DC bin
    torch.testing.assert_close(model(tone).waveform[:, middle], tone[:, middle], atol=5e-3, rtol=0)


# --- what depends on what ---


def test_every_output_sample_depends_on_the_whole_signal():
    model = tiny().eval()
    noisy = noise(1, 6000).requires_grad_()
    for n in (100, 3000, 5900):
        (grad,) = torch.autograd.grad(model(noisy).waveform[0, n], noisy)
        assert (grad[0, :400] != 0).any() and (grad[0, -400:] != 0).any()
    assert not model.causal and model.lookahead_samples > 10**15 and model.latency_samples > 10**15


def test_items_of_a_batch_do_not_influence_each_other_in_eval_mode():
    model = tiny().eval()
    noisy = noise(3, 2500)
    with torch.no_grad():
        together = model(noisy).waveform
        alone = torch.cat([model(item[None]).waveform for item in noisy])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_the_conformer_has_its_layers_in_order_with_opposite_dilations():
    layers = [(d.complex_branch, d.magnitude_branch) for d in tiny(dilated_layers=3).conformer[0].layers]
    for side in zip(*layers, strict=True):
        assert [type(m) for m in side] == [FeedForward, *[AxisAttention] * 2, *[DilatedConv] * 3, FeedForward]
        assert [m.axis for m in side[1:3]] == ["time", "frequency"]
    dilations = [(m.content.dilation, m.gate.dilation) for _, m in layers[3:6]]
    assert dilations == [((1, 1), (4, 1)), ((2, 1), (2, 1)), ((4, 1), (1, 1))]


# --- robustness ---


@pytest.mark.parametrize("length", [1, 159, 160, 161, 399, 401, 2503])
def test_any_length_keeps_its_length(length):
    for model in (tiny().eval(), tiny().train()):
        estimate = model(noise(1, length))
        assert estimate.waveform.shape == (1, length) and estimate.waveform.isfinite().all()
        assert estimate.spectrum.shape == estimate.mask.shape == (1, 257, -(-length // 160) + 2)


@pytest.mark.parametrize("level", [0.0, 1e-30, 1e-6])
def test_silence_stays_silent_with_finite_gradients(level):
    model = tiny()
    noisy = (level * noise(1, 2000)).requires_grad_()
    wave = model(noisy).waveform
    wave.sum().backward()
    assert wave.abs().max() <= 4 * level
    assert noisy.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_masks_of_zero_have_finite_gradients():
    stacked, magnitude = torch.zeros(2, 1, 3, 256, requires_grad=True), torch.zeros(1, 1, 3, 256, requires_grad=True)
    tiny().mask(stacked, magnitude).abs().square().sum().backward()
    assert stacked.grad.isfinite().all() and magnitude.grad.isfinite().all()


def test_one_optimizer_step_reaches_every_parameter_and_lowers_the_loss():
    model = tiny(dropout=0.0)
    noisy, clean = noise(2, 3200), 0.1 * noise(2, 3200, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = (model(noisy).waveform - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_a_half_precision_run_stays_near_the_full_one():
    model, noisy = tiny().eval(), noise(1, 3200)
    with torch.no_grad():
        full = model(noisy).waveform
        with torch.autocast("cpu", dtype=torch.bfloat16):
            estimate = model(noisy)
    assert estimate.waveform.dtype == torch.float32
    assert (estimate.waveform - full).norm() < 0.05 * full.norm()


# --- taps ---


@pytest.mark.parametrize(("branch", "times"), [("complex", 2), ("magnitude", 1), ("both", 3)])
@pytest.mark.parametrize("stage", ["fused", "layer"])
def test_taps_show_the_chosen_branch(branch, times, stage):
    model = tiny(tap_branch=branch, tap_stage=stage)
    shapes = probe(model, resolve_taps(model, None), 16000)
    assert list(shapes) == [*(f"encoder{i}" for i in range(6)), "bottleneck", *(f"decoder{i}" for i in range(6))]
    assert [s[1] for s in shapes.values()] == [times * c for c in [1, 2, 2, 3, 3, 4, 4, 3, 3, 2, 2, 1, 1]]
    assert [s[3] for s in shapes.values()] == [128, 64, 32, 16, 8, 4, 4, 8, 16, 32, 64, 128, 256]
    assert {s[2] for s in shapes.values()} == {102}


def recorded(**changes: Any) -> dict[str, torch.Tensor]:
    model = tiny(**changes).eval()
    recorder = TapRecorder(model, model.taps())
    with torch.no_grad(), recorder:
        model(noise(2, 1600))
    return recorder.activations()


def test_both_branches_are_the_complex_one_then_the_magnitude():
    both, parts = recorded(tap_branch="both"), (recorded(tap_branch="complex"), recorded(tap_branch="magnitude"))
    for name, activation in both.items():
        assert torch.equal(activation, torch.cat([part[name] for part in parts], dim=1))


def test_the_fused_stage_is_the_fusion_of_the_layer_stage():
    before, after = recorded(tap_branch="both", tap_stage="layer"), recorded(tap_branch="both")
    for name in before:
        if name == "bottleneck":
            assert torch.equal(before[name], after[name])
            continue
        real, imag, magnitude = before[name].chunk(3, dim=1)
        stacked, magnitude = fuse(torch.cat([real, imag]), magnitude)
        torch.testing.assert_close(after[name], torch.cat([*stacked.chunk(2), magnitude], dim=1))


def test_a_loss_on_a_tap_trains_the_layers_before_it():
    model = tiny(tap_branch="complex")
    recorder = TapRecorder(model, model.taps())
    with recorder:
        model(noise(1, 1600))
    recorder.activations()["bottleneck"].square().sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())
    assert all(p.grad is None for p in model.decoder.parameters())


def test_weights_fit_whatever_the_taps_show():
    tiny(tap_branch="both", tap_stage="layer").load_state_dict(tiny().state_dict())


def test_the_decoder_reads_the_mirrored_encoder_layer_before_the_layer_below():
    model, names = tiny(tap_branch="both").eval(), ["encoder5", "encoder0", "bottleneck", "decoder4"]
    inputs: dict[int, list[torch.Tensor]] = {}
    for i in (0, 5):
        model.decoder[i].register_forward_pre_hook(
            lambda _, args, i=i: inputs.update({i: [*args[0].chunk(2), args[1]]})
        )
    recorder = TapRecorder(model, resolve_taps(model, names))
    with torch.no_grad(), recorder:
        model(noise(1, 1600))
    seen = {name: activation.chunk(3, dim=1) for name, activation in recorder.activations().items()}
    for part in range(3):  # real, imaginary, magnitude
        assert torch.equal(inputs[0][part], torch.cat([seen["encoder5"][part], seen["bottleneck"][part]], 1))
        assert torch.equal(inputs[5][part], torch.cat([seen["encoder0"][part], seen["decoder4"][part]], 1))


# --- settings ---


CHOICES: list[dict[str, Any]] = [
    {"conformer_blocks": 2},
    {"dilated_layers": 3},
    {"compression": 0.3},
    {"hop_samples": 100},
    {"window_samples": 512},
    {"channels": [2, 3, 4], "n_fft": 256, "window_samples": 256, "hop_samples": 128},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_each_choice_changes_the_result_and_keeps_the_length(choice):
    with torch.no_grad():
        changed, plain = tiny(**choice).eval()(noise(1, 1501)).waveform, tiny().eval()(noise(1, 1501)).waveform
    assert changed.shape == plain.shape and not torch.allclose(changed, plain, atol=1e-6)


def test_dropout_acts_in_training_only():
    model = tiny(dropout=0.5)
    noisy = noise(1, 1600)
    with torch.no_grad():
        assert not torch.equal(model(noisy).waveform, model(noisy).waveform)
        model.eval()
        assert torch.equal(model(noisy).waveform, model(noisy).waveform)


@pytest.mark.parametrize(
    "bad",
    [{"channels": []}, {"channels": [0, 4]}, {"channels": [4, 1]}, {"attention_channels": 1}, {"ff_channels": 0},
     {"dilated_channels": 1}, {"dilated_layers": -1}, {"conformer_blocks": 0}, {"n_fft": 500}, {"dropout": 1.0},
     {"compression": 0.0}, {"tap_branch": "real"}, {"tap_stage": "norm"}, {"window_samples": 600},
     {"hop_samples": 300}],
    ids=str,
)  # fmt: skip
def test_an_impossible_setting_is_named(bad):
    (name,) = bad
    with pytest.raises(ValueError, match={"window_samples": "window", "hop_samples": "hop"}.get(name, name)):
        tiny(**bad)
