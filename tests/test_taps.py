"""Activations are recorded by path, brought to one layout, and every misfit is named."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from kdse.models import Cruse, Tap
from kdse.taps import TapRecorder, probe, resolve_taps, to_bctf


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 6, batch_first=True)
        self.twice = nn.Linear(6, 6)
        self.unused = nn.Linear(2, 2)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.rnn(x)[0]
        return self.relu(self.last(self.twice(self.twice(y))))


@pytest.fixture
def net() -> Net:
    return Net()


def record(model: nn.Module, taps: dict[str, Tap], x: torch.Tensor) -> dict[str, torch.Tensor]:
    recorder = TapRecorder(model, taps)
    with recorder:
        model(x)
    return recorder.activations()


def test_what_is_recorded_is_the_modules_output_with_its_gradient(net):
    x = torch.randn(2, 5, 4, requires_grad=True)
    (activation,) = record(net, {"rnn": Tap("rnn", "b t c")}, x).values()
    expected = net.rnn(x)[0]
    assert torch.equal(activation, expected.transpose(1, 2)[..., None]) and activation.requires_grad


def test_layouts_split_axes_and_complex_becomes_twice_the_channels():
    x = torch.randn(2, 3, 8)
    y = to_bctf(x, Tap("p", "b t (c f)", {"c": 2}), "p")
    assert y.shape == (2, 2, 3, 4) and torch.equal(y[1, 1, 2], x[1, 2, 4:])
    z = torch.randn(2, 3, 4, 5, dtype=torch.complex64)
    assert torch.equal(to_bctf(z, Tap("p"), "p"), torch.cat([z.real, z.imag], 1))


def test_hooks_exist_only_while_recording(net):
    recorder = TapRecorder(net, {"rnn": Tap("rnn", "b t c")})
    with recorder:
        assert net.rnn._forward_hooks
    assert not net.rnn._forward_hooks
    copy.deepcopy(net), pickle.dumps(net.state_dict())


@pytest.mark.parametrize(
    ("tap", "named"),
    [
        (Tap("twice", "b t c"), "more than once"),
        (Tap("unused", "b c"), "not called"),
        (Tap("last", "b t c"), "in place"),
        (Tap("rnn", "b c t f"), r"shape \[2, 5, 6\]"),
        (Tap("rnn", "b t q"), "layout"),
        (Tap("rnn", "b t t"), "layout"),
        (Tap("rnn", "b t c", {"f": 2}), "sizes"),
    ],
    ids=lambda v: v.path if isinstance(v, Tap) else "",
)
def test_a_tap_that_cannot_give_the_right_activation_says_why(net, tap, named):
    with pytest.raises(ValueError, match=named):
        record(net, {"x": tap}, torch.randn(2, 5, 4))


def test_a_wrong_path_lists_the_closest_ones_and_the_command():
    with pytest.raises(ValueError, match=r"encoder\.1.*kdse taps"):
        resolve_taps(Cruse(channels=[2, 4, 6, 8]), {"x": "encoders.1"})


def test_a_config_may_name_own_taps_paths_and_full_specifications():
    model = Cruse(channels=[2, 4, 6, 8])
    assert resolve_taps(model, ["encoder1"])["encoder1"].group == "encoder"
    taps = resolve_taps(model, {"a": "encoder.1", "g": {"path": "bottleneck.grus.0", "layout": "b t c"}})
    assert taps["a"].group == "encoder" and taps["g"].layout == "b t c"
    with pytest.raises(ValueError, match="unknown key"):
        resolve_taps(model, {"a": {"path": "encoder.1", "shape": "b c"}})


def test_probing_disturbs_neither_the_model_nor_the_random_stream():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout())
    model.train()
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    class AsChannel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x[:, None])

    assert probe(AsChannel(), {"x": Tap("inner", "b c t")}, 100)["x"] == (1, 1, 100, 1)
    assert model.training and torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
