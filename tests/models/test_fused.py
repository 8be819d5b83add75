"""The forms of layers for whole signals give what autograd gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.models import Cruse
from kdse.models.base import Tap
from kdse.models.layers import CausalBlock, CumulativeLayerNorm, GroupedGru, product
from kdse.taps import TapRecorder


def _gradients(layer: nn.Module, x: Tensor, run: Any) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = run(x)
    (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    found = [y.detach(), x.grad, *(p.grad for p in layer.parameters())]
    layer.zero_grad()
    assert all(g is not None for g in found)
    return [g.clone() for g in found if g is not None]


@pytest.mark.parametrize(("channels", "frequencies", "groups"), [(8, 5, 4), (6, 2, 4), (3, 5, 1)])
def test_grouped_gru_has_the_values_and_gradients_of_separate_grus(
    channels: int, frequencies: int, groups: int
) -> None:
    torch.manual_seed(0)
    layer = GroupedGru(channels, frequencies, groups).double()
    x = torch.randn(3, channels, 7, frequencies, dtype=torch.float64)

    def separate(x: Tensor) -> Tensor:
        flat = x.permute(0, 2, 1, 3).flatten(2)
        outs = [gru(part)[0] for gru, part in zip(layer.grus, flat.chunk(groups, dim=-1), strict=True)]
        return torch.cat(outs, dim=-1).view(3, 7, channels, frequencies).permute(0, 2, 1, 3)

    for ours, theirs in zip(_gradients(layer, x, layer), _gradients(layer, x, separate), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("over_time", [True, False])
def test_cumulative_norm_has_the_values_and_gradients_of_its_definition(over_time: bool) -> None:
    torch.manual_seed(0)
    layer = CumulativeLayerNorm(3, over_time).double()
    nn.init.normal_(layer.gain)
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)

    def defined(x: Tensor) -> Tensor:
        frames = []
        for t in range(x.shape[2]):
            seen = x[:, :, (0 if over_time else t) : t + 1]
            mean, variance = seen.mean((1, 2, 3)), seen.var((1, 2, 3), correction=0)
            frames.append((x[:, :, t] - mean[:, None, None]) / (variance + layer.eps).sqrt()[:, None, None])
        return torch.stack(frames, dim=2) * layer.gain[:, None, None] + layer.bias[:, None, None]

    for ours, theirs in zip(_gradients(layer, x, layer), _gradients(layer, x, defined), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("over_time", [True, False])
@pytest.mark.parametrize("last", [False, True], ids=["norm", "last"])
@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_a_block_has_the_values_and_gradients_of_its_stages(up: bool, last: bool, over_time: bool) -> None:
    torch.manual_seed(0)
    block = CausalBlock(3, 4, up, last, norm_over_time=over_time).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 6, 10, dtype=torch.float64)
    conv: Any = block.conv

    def stages(x: Tensor) -> Tensor:
        shared = {"stride": (1, 2), "padding": (0, 1)}
        if up:
            y = F.conv_transpose2d(x, conv.weight, conv.bias, output_padding=(0, 1), **shared)[:, :, :6]
        else:
            y = F.conv2d(F.pad(x, (0, 0, 1, 0)), conv.weight, conv.bias, **shared)
        if last:
            return y.sigmoid()
        seen = torch.arange(1.0, 7.0, dtype=torch.float64) * y[0, :, 0].numel() if over_time else y[0, :, 0].numel()
        sums = [z.sum((1, 3)) for z in (y, y.square())]
        mean, square = (z.cumsum(-1) / seen if over_time else z / seen for z in sums)
        norm: Any = block.norm
        y = (y - mean[:, None, :, None]) / (square - mean.square() + norm.eps).sqrt()[:, None, :, None]
        return F.leaky_relu(y * norm.gain[:, None, None] + norm.bias[:, None, None], 0.2)

    for ours, theirs in zip(_gradients(block, x, block), _gradients(block, x, stages), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_products_have_the_values_and_gradients_of_matrix_products() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(7, 5, bias=False).double()
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    ours = _gradients(layer, x, lambda x: product(x, layer.weight.t()))
    for one, other in zip(ours, _gradients(layer, x, layer), strict=True):
        torch.testing.assert_close(one, other)


def test_a_tap_on_a_skip_is_still_recorded_in_training() -> None:
    model = Cruse(channels=[4, 8, 16, 24])
    recorder = TapRecorder(model, {"skip": Tap("skips.1")})
    with recorder:
        model(0.1 * torch.randn(2, 8000))
    assert recorder.activations()["skip"].shape == (2, 16, 33, 10)


def test_a_silent_frame_has_finite_gradients() -> None:
    layer = CumulativeLayerNorm(2)
    for gradient in _gradients(layer, torch.zeros(1, 2, 4, 3), layer):
        assert gradient.isfinite().all()


def test_training_and_evaluation_give_one_estimate() -> None:
    torch.manual_seed(0)
    model = Cruse(channels=[4, 8, 16, 24])
    noisy = 0.1 * torch.randn(2, 8000)
    with torch.no_grad():
        evaluated = model(noisy).waveform
    torch.testing.assert_close(model(noisy).waveform.detach(), evaluated, rtol=0, atol=1e-6)


def test_a_tap_on_a_single_gru_is_still_recorded_in_training() -> None:
    layer = GroupedGru(8, 5)
    seen: list[Tensor] = []
    layer.grus[1].register_forward_hook(lambda _module, _inputs, output: seen.append(output[0]))
    layer(torch.randn(2, 8, 6, 5))
    assert [tuple(out.shape) for out in seen] == [(2, 6, 10)]


@pytest.mark.parametrize("part", ["conv", "norm"])
def test_what_a_hook_changes_before_a_stage_of_a_block_counts_in_training(part: str) -> None:
    block = CausalBlock(2, 3, up=False)
    x = torch.randn(2, 2, 5, 8)
    block.get_submodule(part).register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 0 + 1,))
    stages = nn.Sequential(block.conv, block.norm, block.activation)
    expected = stages(F.pad(x, (0, 0, 1, 0)))
    torch.testing.assert_close(block(x), expected)
