"""The forms of layers for whole signals give what autograd gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdse.models import Cruse
from kdse.models.layers import CumulativeLayerNorm, GroupedGru


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
