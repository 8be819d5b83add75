"""Uformer's layers agree with complex arithmetic and with plain loops, and reach the inputs they should."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from kdse.models.layers import BandConv
from kdse.models.uformer_layers import (
    AxisAttention,
    ComplexAttention,
    ComplexMap,
    DilatedConv,
    FeedForward,
    band_layer,
    fuse,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noise64(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def as_complex(stacked: torch.Tensor) -> torch.Tensor:
    return torch.complex(*stacked.chunk(2))


# --- layers against complex arithmetic ---


def test_a_complex_linear_map_is_complex_multiplication():
    layer = ComplexMap(lambda: nn.Linear(3, 5)).double()
    x = noise64(8, 3)
    weight = torch.complex(layer.real.weight, layer.imag.weight)
    bias = torch.complex(layer.real.bias - layer.imag.bias, layer.real.bias + layer.imag.bias)
    torch.testing.assert_close(as_complex(layer(x)), as_complex(x) @ weight.T + bias)


@pytest.mark.parametrize("up", [False, True])
def test_a_complex_convolution_is_complex_multiplication(up):
    layer = ComplexMap(lambda: BandConv(2, 3, up, width=5)).double()
    for part in (layer.real, layer.imag):
        nn.init.zeros_(part.conv.bias)
    weight = torch.complex(layer.real.conv.weight, layer.imag.conv.weight)
    x = noise64(4, 2, 5, 8)
    options: dict[str, Any] = {"stride": (1, 2)}
    if up:
        expected = nn.functional.conv_transpose2d(as_complex(x), weight, **options)[:, :, :5, 2:18]
    else:
        expected = nn.functional.conv2d(nn.functional.pad(as_complex(x), (2, 2, 1, 0)), weight, **options)
    torch.testing.assert_close(as_complex(layer(x)), expected)


def test_complex_attention_is_the_sum_of_eight_real_ones():
    """Loop over the parts of q, k and v; each product counts i to the number of imaginary parts."""
    width, layer = 3, ComplexAttention(4, 3).double()
    stacked = noise64(2 * 2, 3, 5, 4)
    parts = stacked.chunk(2)
    expected = torch.zeros(2, 3, 5, width, dtype=torch.complex128)
    for q, k, v in product((0, 1), repeat=3):
        projected = []
        for name, part, others in (("query", q, (k, v)), ("key", k, (q, v)), ("value", v, (q, k))):
            linear = layer.projections[name][part]
            first = (2 * others[0] + others[1]) * width
            rows = slice(first, first + width)
            projected.append(parts[part] @ linear.weight[rows].T + linear.bias[rows])
        energy = projected[0] @ projected[1].transpose(-1, -2) / width**0.5
        weights = energy.exp() / energy.exp().sum(-1, keepdim=True)
        expected += 1j ** (q + k + v) * (weights @ projected[2])
    torch.testing.assert_close(as_complex(layer(stacked)), expected)


def test_batch_norm_pools_real_and_imaginary_parts():
    """As a BatchNorm3d over a tensor whose last axis holds the two parts."""
    x = noise(4, 3, 5, 6)
    ours, reference = nn.BatchNorm2d(3), nn.BatchNorm3d(3)
    expected = reference(torch.stack(x.chunk(2), dim=-1))
    torch.testing.assert_close(ours(x), torch.cat(expected.unbind(-1)))
    torch.testing.assert_close(ours.running_var, reference.running_var)
    assert any(isinstance(m, nn.BatchNorm2d) for m in band_layer(True, 3, 4, up=False).modules())


def test_fusion_offsets_each_branch_by_the_other():
    stacked, magnitude = noise64(4, 2, 3, 5), noise64(2, 2, 3, 5, seed=1)
    new_stacked, new_magnitude = fuse(stacked, magnitude)
    offset = 1 / (1 + (-magnitude).exp())
    torch.testing.assert_close(as_complex(new_stacked), as_complex(stacked) + offset * (1 + 1j))
    torch.testing.assert_close(new_magnitude, magnitude + 1 / (1 + (-as_complex(stacked).abs()).exp()))


# --- what reaches what ---


def reaches(layer: nn.Module, shape: tuple[int, ...], t: int, f: int) -> torch.Tensor:
    """Which (time, frequency) inputs reach output (t, f) through some channel and part: booleans ``[T, F]``."""
    x = noise64(*shape).requires_grad_()
    (grad,) = torch.autograd.grad(layer.double().eval()(x)[:, :, t, f].square().sum(), x)
    return (grad != 0).any(0).any(0)


@pytest.mark.parametrize("is_complex", [False, True])
def test_attention_over_time_stays_in_its_band_and_over_frequency_in_its_frame(is_complex):
    expected = torch.zeros(6, 5, dtype=torch.bool)
    expected[:, 3] = True
    assert torch.equal(reaches(AxisAttention(is_complex, 4, 3, "time", 0.1), (2, 4, 6, 5), 1, 3), expected)
    expected = torch.zeros(6, 5, dtype=torch.bool)
    expected[1] = True
    assert torch.equal(reaches(AxisAttention(is_complex, 4, 3, "frequency", 0.1), (2, 4, 6, 5), 1, 3), expected)


@pytest.mark.parametrize("is_complex", [False, True])
def test_dilated_convolutions_reach_frames_at_both_dilations_on_both_sides(is_complex):
    seen = reaches(DilatedConv(is_complex, 4, 3, (1, 4), 0.1), (2, 4, 11, 5), 5, 2)
    expected = torch.zeros(11, 5, dtype=torch.bool)
    expected[[1, 4, 5, 6, 9], 1:4] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("up", [False, True])
def test_encoder_and_decoder_convolutions_see_one_past_frame_and_no_future(up):
    seen = reaches(BandConv(2, 3, up, width=5), (1, 2, 6, 8), 3, 2).any(1)
    assert seen.tolist() == [False, False, True, True, False, False]


# --- residual layers ---


@pytest.mark.parametrize("is_complex", [False, True])
def test_a_conformer_layer_that_adds_nothing_returns_its_input(is_complex):
    x = noise(4, 4, 5, 6)
    layers: list[nn.Module] = [
        FeedForward(is_complex, 4, 3, 0.1),
        AxisAttention(is_complex, 4, 3, "time", 0.1),
        AxisAttention(is_complex, 4, 3, "frequency", 0.1),
        DilatedConv(is_complex, 4, 3, (1, 2), 0.1),
    ]
    for layer in layers:
        assert not torch.allclose(layer(x), x)
        for _, parameter in list(layer.named_parameters())[-4:]:
            nn.init.zeros_(parameter)  # the last map, or the norm and the activation after it
        torch.testing.assert_close(layer(x), x, atol=0, rtol=0)


def normed(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    """Layer norm over the last axis from its equation."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def leaky(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, slope * x)


def shuffled(layer: nn.Module) -> nn.Module:
    """float64 with random gains and biases, so that none of them can be forgotten."""
    layer = layer.double().eval()
    for i, parameter in enumerate(layer.parameters()):
        parameter.data += 0.3 * noise64(*parameter.shape, seed=i)
    return layer


def test_feed_forward_is_half_a_step():
    layer, x = shuffled(FeedForward(False, 4, 3, 0.1)), noise64(2, 4, 3, 5)
    norm, first, prelu, _, second, _ = layer.layers
    hidden = leaky(normed(x.permute(0, 2, 3, 1), norm) @ first.weight.T + first.bias, prelu.weight)
    y = hidden @ second.weight.T + second.bias
    torch.testing.assert_close(layer(x), x + 0.5 * y.permute(0, 3, 1, 2))


def test_dilated_convolution_agrees_with_a_loop():
    layer, x = shuffled(DilatedConv(False, 3, 2, (1, 3), 0.1)), noise64(1, 3, 5, 4)
    norm, narrow, prelu = layer.narrow
    hidden = leaky(normed(x[0].permute(1, 2, 0), norm) @ narrow.weight.T + narrow.bias, prelu.weight)  # [T, F, 2]
    convolved = []
    for conv, dilation in ((layer.content, 1), (layer.gate, 3)):
        out = conv.bias.repeat(5, 4, 1)
        for t, f, dt, df in product(range(5), range(4), (-1, 0, 1), (-1, 0, 1)):
            if 0 <= t + dt * dilation < 5 and 0 <= f + df < 4:
                out[t, f] += conv.weight[:, :, dt + 1, df + 1] @ hidden[t + dt * dilation, f + df]
        convolved.append(out)
    norm, _, widen, _ = layer.widen
    gated = normed(convolved[0] / (1 + (-convolved[1]).exp()), norm)
    y = (gated / (1 + (-gated).exp())) @ widen.weight.T + widen.bias
    torch.testing.assert_close(layer(x)[0], x[0] + y.permute(2, 0, 1))


@pytest.mark.parametrize("axis", ["time", "frequency"])
def test_axis_attention_agrees_with_a_loop(axis):
    layer, x = shuffled(AxisAttention(False, 3, 2, axis, 0.1)), noise64(1, 3, 5, 4)
    norm, attention, hidden_norm, widen, out_norm, prelu, _ = layer.layers
    expected = x.clone()
    for place in range(4 if axis == "time" else 5):
        where = (0, slice(None), slice(None), place) if axis == "time" else (0, slice(None), place)
        sequence = normed(x[where].T, norm)
        query, key, value = (m(sequence) for m in (attention.query, attention.key, attention.value))
        energy = (query @ key.T / 2**0.5).exp()
        y = normed((energy / energy.sum(1, keepdim=True)) @ value, hidden_norm) @ widen.weight.T + widen.bias
        expected[where] += leaky(normed(y, out_norm), prelu.weight).T
    torch.testing.assert_close(layer(x), expected)
