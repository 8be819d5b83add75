"""DCCRN has the published sizes, stays aligned, looks ahead as far as it says, streams if causal, can be compressed."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor

from kdse.models.budget import count_parameters, find_widths
from kdse.models.complex_layers import ComplexBatchNorm, ComplexLstm, concatenate
from kdse.models.dccrn import ComplexBlock, Dccrn
from kdse.models.streaming import can_stream
from kdse.taps import probe, resolve_taps

TINY = {"channels": [2, 4, 4], "lstm_units": 4, "n_fft": 512}
DISTIL = [32, 64, 128, 128, 128, 128]


def tiny(**choices) -> Dccrn:
    """A tiny model in eval mode whose batch norms have seen something."""
    torch.manual_seed(5)
    model = Dccrn(**{**TINY, **choices})
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, 4000) + 0.1)
    return model.eval()


def set_mask(model: Dccrn, real: float, imaginary: float) -> None:
    """Makes the decoder predict one complex number everywhere (bias of W_r minus, plus, that of W_i)."""
    conv = model.decoder[-1].conv
    for part, bias in ((conv.real, (real + imaginary) / 2), (conv.imaginary, (imaginary - real) / 2)):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.constant_(part.bias, bias)


# --- size ---


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 3_742_349),
        ({"channels": [32, 64, 128, 256, 256, 256], "complex_lstm": True}, 3_671_053),
        ({"channels": DISTIL, "lstm_units": 64}, 1_109_645),
        ({"channels": [32, 64, 128, 128, 256, 256]}, 3_981_581),
    ],
    ids=["E", "CL", "distil", "paper text"],
)
def test_trainable_parameters_are_exactly_the_published(settings, parameters):
    with torch.device("meta"):
        assert count_parameters(Dccrn(**settings), trainable_only=True) == parameters


def test_a_third_of_the_parameters_is_distil_dccrn():
    with torch.device("meta"):
        teacher = Dccrn()
    budget = find_widths(teacher, 3.37)
    assert budget.source == "preset" and budget.parameters == 1_109_645
    assert budget.init_args["channels"] == DISTIL and budget.init_args["lstm_units"] == 64


@pytest.mark.parametrize("complex_lstm", [False, True])
@pytest.mark.parametrize("ratio", [2, 30])
def test_any_ratio_is_reached_within_five_percent(ratio, complex_lstm):
    with torch.device("meta"):
        teacher = Dccrn(channels=[8, 16, 32, 64, 96, 96], lstm_units=96, complex_lstm=complex_lstm)
        budget = find_widths(teacher, ratio)
        assert budget.ratio == pytest.approx(ratio, rel=0.05)
        assert count_parameters(Dccrn(**budget.init_args)) == budget.parameters


# --- layers against loops ---


def loop_block(x: list, weight: dict, bias: complex, up: bool, look_ahead: bool) -> list:
    """Complex convolution by index: x[i][t][f], weight[o, i, time, frequency]; frames outside are zero."""
    inputs, frames, bins = len(x), len(x[0]), len(x[0][0])
    outputs = 1 + max(key[0] for key in weight)
    y = [[[bias] * (2 * bins if up else bins // 2) for _ in range(frames)] for _ in range(outputs)]
    for (o, i, dt, df), w in weight.items():
        assert i < inputs
        for t in range(frames):
            for f in range(bins):
                if up:  # input frame t reaches output frames t and t + 1 of T + 1, one end of which goes
                    t_out, f_out = t + dt - (1 if look_ahead else 0), 2 * f + df - 2
                    if 0 <= t_out < frames and 0 <= f_out < 2 * bins:
                        y[o][t_out][f_out] += w * x[i][t][f]
                else:  # tap 0 is the frame before, tap 1 the frame itself
                    t_out, f_out = t + 1 - dt, (f + 2 - df) / 2
                    if t_out < frames and f_out in range(bins // 2):
                        y[o][t_out][int(f_out)] += w * x[i][t][f]
    return y


@pytest.mark.parametrize(("up", "look_ahead"), [(False, False), (True, False), (True, True)])
def test_a_complex_block_is_a_loop_over_complex_numbers(up, look_ahead):
    torch.manual_seed(0)
    block = ComplexBlock(4, 6, up=up, look_ahead=look_ahead, last=True).double()
    for part, bias in ((block.conv.real, 0.3), (block.conv.imaginary, -0.2)):
        torch.nn.init.normal_(part.weight)
        torch.nn.init.constant_(part.bias, bias)
    x = torch.randn(1, 4, 3, 8, dtype=torch.float64)
    kernel = torch.complex(block.conv.real.weight, block.conv.imaginary.weight).detach()
    kernel = kernel.transpose(0, 1) if up else kernel
    weight = {(o, i, t, f): complex(kernel[o, i, t, f]) for o in range(3) for i in range(2) for t in range(2)
              for f in range(5)}  # fmt: skip
    # each real convolution adds its own bias: (0.3 - -0.2) to the real part, 0.3 + -0.2 to the imaginary part
    expected = loop_block(torch.complex(x[0, :2], x[0, 2:]).tolist(), weight, complex(0.5, 0.1), up, look_ahead)
    y = block(x)[0]
    torch.testing.assert_close(torch.complex(y[:3], y[3:]), torch.tensor(expected, dtype=torch.complex128))


def test_skips_join_as_complex_numbers():
    x, y = torch.randn(2, 4, 3, 5), torch.randn(2, 6, 3, 5)
    joined = concatenate(x, y)
    expected = torch.cat([torch.complex(z[:, : z.shape[1] // 2], z[:, z.shape[1] // 2 :]) for z in (x, y)], dim=1)
    assert torch.equal(torch.complex(joined[:, :5], joined[:, 5:]), expected)


def loop_lstm(lstm: torch.nn.LSTM, x: Tensor) -> Tensor:
    """One LSTM layer ``[T, D]`` to ``[T, H]``, gate by gate."""
    hidden = cell = torch.zeros(lstm.hidden_size, dtype=x.dtype)
    outs = []
    for frame in x:
        gates = lstm.weight_ih_l0 @ frame + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0
        i, f, g, o = gates.chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outs.append(hidden)
    return torch.stack(outs)


def test_the_complex_lstm_is_two_real_ones_combined():
    torch.manual_seed(0)
    channels, frequencies = 6, 2
    layer = ComplexLstm(channels, frequencies, units=8, layers=2).double()
    x = torch.randn(2, channels, 5, frequencies, dtype=torch.float64)
    y = layer(x)
    for b in range(2):
        real = torch.stack([x[b, :3, t].flatten() for t in range(5)])
        imaginary = torch.stack([x[b, 3:, t].flatten() for t in range(5)])
        for lstm_r, lstm_i in zip(layer.real, layer.imaginary, strict=True):
            real, imaginary = (
                loop_lstm(lstm_r, real) - loop_lstm(lstm_i, imaginary),
                loop_lstm(lstm_r, imaginary) + loop_lstm(lstm_i, real),
            )
        for part, linear, rows in ((y[b, :3], layer.linear[0], real), (y[b, 3:], layer.linear[1], imaginary)):
            for t in range(5):
                expected = (linear.weight @ rows[t] + linear.bias).reshape(3, frequencies)
                torch.testing.assert_close(part[:, t], expected)


def test_complex_batch_norm_whitens_with_the_inverse_root_of_the_covariance():
    torch.manual_seed(0)
    norm = ComplexBatchNorm(4).double()
    torch.nn.init.normal_(norm.gain)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    x[:, 2:] += 0.7 * x[:, :2] + 2
    y = norm(x)
    for c in range(2):
        pairs = torch.stack([x[:, c].flatten(), x[:, c + 2].flatten()])
        covariance = torch.cov(pairs, correction=0)
        values, vectors = torch.linalg.eigh(covariance + 1e-5 * torch.eye(2, dtype=torch.float64))
        white = vectors @ torch.diag(values.rsqrt()) @ vectors.T @ (pairs - pairs.mean(1, keepdim=True))
        rr, ri, ii = norm.gain[:, c]
        expected = torch.stack([torch.stack([rr, ri]), torch.stack([ri, ii])]) @ white + norm.bias[:, c, None]
        torch.testing.assert_close(torch.stack([y[:, c].flatten(), y[:, c + 2].flatten()]), expected)
        torch.testing.assert_close(norm.running_mean[:, c], 0.1 * pairs.mean(1))
        torch.testing.assert_close(norm.running_covariance[1, c], 0.1 * covariance[0, 1])


def test_complex_batch_norm_in_eval_mode_uses_what_it_learnt():
    torch.manual_seed(0)
    norm = ComplexBatchNorm(4)
    x = torch.randn(8, 4, 20, 6) * 3 + 1
    for _ in range(200):
        trained = norm(x)
    torch.testing.assert_close(norm.eval()(x), trained, atol=1e-4, rtol=1e-4)


# --- masks ---


@pytest.mark.parametrize("mode", ["E", "C", "R"])
def test_each_mask_mode_is_the_papers_formula(mode):
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(1, 257, 2, dtype=torch.complex128, generator=generator)
    predicted = torch.randn(1, 2, 2, 256, dtype=torch.float64, generator=generator)
    model = Dccrn(**TINY, mask_mode=mode)
    enhanced = model.apply_mask(spectrum, model.gain(predicted))
    for f in range(257):
        for t in range(2):
            y = complex(spectrum[0, f, t])
            m = complex(*predicted[0, :, t, f - 1].tolist()) if f else 0j
            if mode == "E":
                expected = cmath.rect(abs(y) * math.tanh(abs(m)), cmath.phase(y) + cmath.phase(m))
            elif mode == "C":
                expected = y * m
            else:
                expected = complex(y.real * m.real, y.imag * m.imag)
            assert abs(complex(enhanced[0, f, t]) - expected) < 1e-9


@pytest.mark.parametrize("look_ahead", [True, False])
@pytest.mark.parametrize(("mode", "mask"), [("E", (40.0, 0.0)), ("C", (1.0, 0.0)), ("R", (1.0, 1.0))])
def test_a_mask_of_one_returns_the_input_without_its_lowest_bin_and_without_delay(mode, mask, look_ahead):
    model = tiny(mask_mode=mode, look_ahead=look_ahead)
    set_mask(model, *mask)
    time = torch.arange(3456) / 16000
    noisy = 0.5 * torch.sin(2 * torch.pi * 1000 * time)[None]  # periods in a window: nothing in bin 0
    inside = slice(400, -400)  # (where the tone starts and ends there is something)
    estimate = model(noisy)
    torch.testing.assert_close(estimate.waveform[:, inside], noisy[:, inside], atol=1e-5, rtol=0)
    assert torch.all(estimate.spectrum[:, 0] == 0)


def test_the_waveform_is_clipped_as_published_unless_told_not_to():
    loud = 3 * torch.sin(torch.arange(3000) / 3)[None]
    for clip in (True, False):
        model = tiny(mask_mode="C", clip=clip)
        set_mask(model, 1.0, 0.0)
        assert (model(loud).waveform.abs().max() <= 1) == clip


# --- time ---


@pytest.mark.parametrize(("look_ahead", "expected"), [(True, 398 + 300), (False, 398)])
def test_the_declared_look_ahead_is_exact(look_ahead, expected):
    """By gradients, over every position in a hop; three blocks see three frames of 100 samples ahead."""
    model = tiny(look_ahead=look_ahead).requires_grad_(False)
    noisy = (0.1 * torch.randn(1, 2400)).requires_grad_()
    wave = model(noisy).waveform
    furthest = []
    for n in range(1000, 1100):
        (grad,) = torch.autograd.grad(wave[0, n], noisy, retain_graph=True)
        furthest.append(int(grad[0].nonzero().max()) - n)
    assert max(furthest) == model.lookahead_samples == expected
    assert model.causal is not look_ahead
    assert model.latency_samples == 400 + (300 if look_ahead else 0)


def test_six_published_blocks_look_six_frames_ahead():
    model = Dccrn(channels=[2] * 6, lstm_units=2)
    assert model.lookahead_samples == 398 + 600
    assert model.latency_samples - model.stft.window_samples == 0.0375 * model.sample_rate_hz


@pytest.mark.parametrize("look_ahead", [True, False])
def test_a_frame_of_the_mask_sees_its_own_frame_and_no_more_than_one_later_frame_a_block(look_ahead):
    model = tiny(look_ahead=look_ahead)
    features = torch.randn(1, 2, 9, 256, requires_grad=True)
    predicted = model.predict(features)
    assert predicted.shape == features.shape
    for t in range(9):
        (grad,) = torch.autograd.grad(predicted[0, :, t].sum(), features, retain_graph=True)
        seen = grad[0].abs().sum((0, 2)).nonzero().flatten().tolist()
        assert t in seen and max(seen) == min(8, t + (3 if look_ahead else 0))


STREAMED = [
    {},
    {"complex_lstm": True},
    {"complex_norm": True, "mask_mode": "R"},
    {"mask_mode": "C", "lstm_layers": 1, "clip": False},
    {"window": "sqrt_hann", "hop": 128, "window_samples": 512},
    {"hop": 90, "window_samples": 330},
]


@pytest.mark.parametrize("look_ahead", [True, False])
@pytest.mark.parametrize("choice", STREAMED, ids=str)
def test_streaming_hop_by_hop_equals_the_offline_result(choice, look_ahead):
    model = tiny(look_ahead=look_ahead, **choice)
    hop, count = model.hop_samples, 25
    noisy = torch.randn(2, hop * count)
    state, hops = model.initial_state(2), []
    with torch.no_grad():
        offline = model(noisy).waveform
        for i, piece in enumerate(torch.cat([noisy, torch.zeros(2, 8 * hop)], dim=1).split(hop, dim=1)):
            if i == count and look_ahead:
                state["ended"] = torch.ones(2, 1)
            out, state = model.step(piece, state)
            hops.append(out)
    assert offline.abs().max() > 1e-3 and can_stream(model)
    delay = model.latency_samples - hop
    streamed = torch.cat(hops, dim=1)[:, delay : delay + noisy.shape[1]]
    torch.testing.assert_close(streamed, offline, atol=2e-6, rtol=0)


@pytest.mark.parametrize("look_ahead", [True, False])
def test_the_state_has_the_batch_first_and_keeps_its_shapes(look_ahead):
    model = tiny(look_ahead=look_ahead, complex_lstm=True)
    state = model.initial_state(3)
    _, after = model.step(torch.randn(3, 100), state)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in after.items()}
    assert all(v.shape[0] == 3 for v in state.values())


def test_behind_the_end_stand_zero_frames_and_not_what_silence_gives():
    """Without `ended` the last samples differ, and only those that the look-ahead reaches."""
    model = tiny()
    noisy = torch.randn(1, 3000)
    state, hops = model.initial_state(1), []
    with torch.no_grad():
        offline = model(noisy).waveform
        for piece in torch.cat([noisy, torch.zeros(1, 600)], dim=1).split(100, dim=1):
            out, state = model.step(piece, state)
            hops.append(out)
    wrong = (torch.cat(hops, dim=1)[:, 600:] - offline).abs()[0] > 1e-5
    assert wrong.any() and int(wrong.nonzero().min()) >= 3000 - 300  # three blocks, one hop each


# --- the rest of the contract ---


@pytest.mark.parametrize("look_ahead", [True, False])
@pytest.mark.parametrize("length", [1, 99, 100, 101, 399, 2000])
def test_any_length_keeps_its_length(length, look_ahead):
    model = Dccrn(**TINY, look_ahead=look_ahead)  # in training mode
    estimate = model(torch.randn(1, length))
    assert estimate.waveform.shape == (1, length) and torch.isfinite(estimate.waveform).all()
    assert estimate.mask.shape == (1, 2, *estimate.spectrum.mT.shape[1:])


@pytest.mark.parametrize("choice", [{"mask_mode": m} for m in "ECR"] + [{"complex_norm": True}], ids=str)
def test_silence_gives_silence_and_finite_gradients(choice):
    model = Dccrn(**TINY, **choice)
    noisy = torch.zeros(2, 3000, requires_grad=True)
    wave = model(noisy).waveform
    (wave.square().sum() + wave.sum()).backward()
    assert torch.all(wave == 0) and torch.isfinite(noisy.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_mask_of_zero_has_a_gradient():
    predicted = torch.zeros(1, 2, 3, 256, requires_grad=True)
    gain = Dccrn(**TINY).gain(predicted)
    gain.sum().backward()
    torch.testing.assert_close(predicted.grad, torch.ones_like(predicted))  # tanh|M| / |M| is 1 at zero


@pytest.mark.parametrize("choice", [{}, {"complex_lstm": True, "complex_norm": True}], ids=str)
def test_every_parameter_is_trained(choice):
    model = Dccrn(**TINY, **choice)
    model(torch.randn(2, 3000)).waveform.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


CHOICES = [
    {"complex_lstm": True},
    {"mask_mode": "C"},
    {"mask_mode": "R"},
    {"look_ahead": False},
    {"hop": 200},
    {"window_samples": 512},
    {"window": "sqrt_hann"},
    {"lstm_layers": 1},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_each_choice_changes_the_result(choice):
    noisy = torch.randn(1, 3000, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(tiny()(noisy).waveform, tiny(**choice)(noisy).waveform, atol=1e-6)


def test_an_odd_width_is_rounded_up_to_whole_complex_channels():
    model = Dccrn(**{**TINY, "channels": [1, 3, 5], "lstm_units": 3}, complex_lstm=True)
    assert [s[1] for s in probe(model, resolve_taps(model, None)).values()] == [2, 4, 6, 6, 4, 2, 2]


def test_taps_show_every_block_in_order_with_the_papers_frequencies():
    model = Dccrn(channels=[2, 2, 4, 4, 6, 6], lstm_units=4)
    shapes = probe(model, resolve_taps(model, None), 4000)
    blocks = range(6)
    assert list(shapes) == [*(f"encoder{i}" for i in blocks), "bottleneck", *(f"decoder{i}" for i in blocks)]
    assert [s[3] for s in shapes.values()] == [128, 64, 32, 16, 8, 4, 4, 8, 16, 32, 64, 128, 256]
    assert [s[1] for s in shapes.values()] == [2, 2, 4, 4, 6, 6, 6, 6, 4, 4, 2, 2, 2]
    assert {s[2] for s in shapes.values()} == {4000 // 100 + 3}


def test_lower_precision_gives_a_float32_waveform():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        estimate = Dccrn(**TINY, complex_norm=True, complex_lstm=True)(torch.randn(1, 1000))
    assert estimate.waveform.dtype == torch.float32 and torch.isfinite(estimate.waveform).all()


@pytest.mark.parametrize(
    "bad", [{"channels": []}, {"channels": [2, 0]}, {"channels": [2] * 9}, {"lstm_units": 0}, {"lstm_layers": 0},
     {"mask_mode": "polar"}, {"n_fft": 500, "window_samples": 400}, {"window": "box"}, {"hop": 300}], ids=str,
)  # fmt: skip
def test_an_impossible_setting_is_named(bad):
    with pytest.raises(ValueError, match="|".join(bad)):
        Dccrn(**bad)
