"""Any module from wave to wave can be a teacher, but a checkpoint cannot smuggle one in."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from torch import nn

from kdse.models import Wrapped
from kdse.models.aligned import Aligned
from kdse.models.checkpoint import describe, load_model
from kdse.teacher import load_teacher

HERE = __name__


class Gain(nn.Module):
    def __init__(self, gain: float = 0.5, cut: int = 0, tuple_out: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.cut, self.tuple_out = cut, tuple_out

    def forward(self, wave):
        out = self.gain * wave[..., : wave.shape[-1] - self.cut]
        return (out, None) if self.tuple_out else out


class Net(nn.Module):
    """Two parameters with a dot in their names, a plain tensor, and a length that must be a multiple of four."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.window = torch.ones(4)

    def forward(self, wave):
        return (wave.unflatten(-1, (-1, 4)) * self.window).flatten(-2) * self.body.bias[0]


class Pretrained(Net):
    """Loads its own weights, as a class with `pretrained` does."""

    def __init__(self) -> None:
        super().__init__()
        self.load_state_dict({"body.weight": torch.eye(2), "body.bias": torch.ones(2)})


class Scalar(nn.Module):
    def forward(self, wave):
        return wave.sum()


@pytest.mark.parametrize("channel_axis", [False, True])
@pytest.mark.parametrize("tuple_out", [False, True])
def test_a_foreign_module_keeps_shape_and_value(channel_axis, tuple_out):
    model = Wrapped(f"{HERE}.Gain", {"gain": 0.25, "tuple_out": tuple_out}, channel_axis=channel_axis)
    noisy = torch.randn(2, 1000)
    torch.testing.assert_close(model(noisy).waveform, 0.25 * noisy)


def test_a_module_that_drops_the_last_partial_frame_still_returns_the_full_length():
    noisy = torch.ones(1, 1000)
    wave = Wrapped(f"{HERE}.Gain", {"cut": 90})(noisy).waveform
    assert wave.shape == (1, 1000) and torch.all(wave[:, 910:] == 0)


def test_weights_are_read_as_data(tmp_path):
    torch.save({"gain": torch.tensor(0.75)}, tmp_path / "w.pt")
    model = Wrapped(f"{HERE}.Gain", weights=str(tmp_path / "w.pt"))
    assert model.module.gain.item() == 0.75
    torch.save(nn.Linear(2, 2), tmp_path / "pickled.pt")
    for name in ("pickled.pt", "missing.pt"):
        with pytest.raises(ValueError, match=name):
            Wrapped(f"{HERE}.Gain", weights=str(tmp_path / name))
    torch.save({"other": torch.zeros(2)}, tmp_path / "wrong.pt")
    with pytest.raises(ValueError, match="do not fit Gain"):
        Wrapped(f"{HERE}.Gain", weights=str(tmp_path / "wrong.pt"))


@pytest.mark.parametrize("class_path", ["no.such.Thing", "os.path.join", "torch.nn.Nothing", "Gain", ""])
def test_a_class_path_that_is_no_module_is_named(class_path):
    with pytest.raises(ValueError, match="class_path"):
        Wrapped(class_path)


def test_wrong_arguments_and_wrong_outputs_are_named():
    with pytest.raises(ValueError, match="loudness"):
        Wrapped(f"{HERE}.Gain", {"loudness": 3})
    with pytest.raises(ValueError, match="Scalar"):
        Wrapped(f"{HERE}.Scalar")(torch.zeros(1, 10))


def test_a_checkpoint_of_a_wrapped_model_needs_trust(tmp_path):
    model = Wrapped(f"{HERE}.Gain", {"gain": 0.3})
    content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}
    torch.save(content, tmp_path / "wrapped.ckpt")
    with pytest.raises(ValueError, match="--trust-code"):
        load_model(tmp_path / "wrapped.ckpt")
    assert load_model(tmp_path / "wrapped.ckpt", trust_code=True).module.gain.item() == pytest.approx(0.3)


# --- where weights lie ---


def weights(value: float = 1.0, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}body.weight": torch.eye(2), f"{prefix}body.bias": torch.full((2,), value)}


OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
DISCRIMINATOR = {"body.weight": torch.zeros(3, 3), "body.bias": torch.zeros(3)}


@pytest.mark.parametrize(
    "content",
    [
        weights(),
        {"state_dict": weights(), "epoch": 3},
        {"model": weights(), "optimizer": OPTIMIZER, "step": torch.tensor(7)},
        {"generator": weights(prefix="module."), "discriminator": DISCRIMINATOR},
        {"checkpoint": {"net": weights(prefix="module.")}},
        {"state_dict": weights(prefix="model.") | {"loss.weight": torch.zeros(5)}, "optimizer_states": [OPTIMIZER]},
        {"model": weights(), "state_dict": weights()},  # (twice the same)
        weights(prefix="_orig_mod.module."),
    ],
)
def test_weights_are_found_wherever_they_lie_in_the_file(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    module = Wrapped(f"{HERE}.Net", weights=str(tmp_path / "w.pt")).module
    torch.testing.assert_close(dict(module.state_dict()), weights())


def test_a_prefix_that_only_the_module_has_is_added(tmp_path):
    torch.save({"gain": torch.tensor(0.75)}, tmp_path / "w.pt")
    model = Wrapped("torch.nn.ModuleDict", {"modules": {"inner": Gain()}}, weights=str(tmp_path / "w.pt"))
    assert model.module["inner"].gain.item() == 0.75


def test_weights_that_differ_are_listed_and_one_is_chosen_by_key(tmp_path):
    both = weights(2.0, "net.") | weights(3.0, "ema.")
    for name, content, keys in (
        ("two", {"model": weights(2.0), "ema": weights(3.0)}, ("model", "ema")),
        ("one", {"state_dict": both}, ("state_dict.net", "state_dict.ema")),
        ("half", {"g": weights(2.0), "g16": {k: v.half() for k, v in weights(3.0).items()}}, ("g", "g16")),
    ):
        path = str(tmp_path / name)
        torch.save(content, path)
        with pytest.raises(ValueError, match=rf"{path}: '{keys[0]}' and '{keys[1]}' fit Net.*weights_key"):
            Wrapped(f"{HERE}.Net", weights=path)
        for key, value in zip(keys, (2.0, 3.0), strict=True):
            assert Wrapped(f"{HERE}.Net", weights=path, weights_key=key).module.body.bias[0].item() == value
        with pytest.raises(ValueError, match="no weights at weights_key='other'"):
            Wrapped(f"{HERE}.Net", weights=path, weights_key="other")


def test_a_file_in_which_nothing_fits_says_what_it_holds(tmp_path):
    torch.save({"generator": DISCRIMINATOR, "discriminator": DISCRIMINATOR}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w.pt: holds no weights that fit Net.*'generator', 'discriminator'"):
        Wrapped(f"{HERE}.Net", weights=str(tmp_path / "w.pt"))
    torch.save({"generator": DISCRIMINATOR}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"do not fit Net.*size mismatch"):  # (of the only one, torch says more)
        Wrapped(f"{HERE}.Net", weights=str(tmp_path / "w.pt"))
    with pytest.raises(ValueError, match="give `weights`"):
        Wrapped(f"{HERE}.Net", weights_key="generator")


@pytest.mark.parametrize("aligned", [False, True])
def test_only_a_teacher_of_random_weights_is_said_to_have_them(tmp_path, caplog, aligned):
    torch.save(weights(), tmp_path / "w.pt")
    said = []
    for name, more in (("Net", {}), ("Net", {"weights": str(tmp_path / "w.pt")}), ("Pretrained", {})):
        caplog.clear()
        given = {"class_path": f"{HERE}.{name}", **more}
        inner = {"class_path": "kdse.models.Wrapped", "init_args": given}
        make = partial(Aligned, inner, delay_samples=0, gain=1.0) if aligned else partial(Wrapped, **given)
        with caplog.at_level(logging.WARNING):
            load_teacher(make, None, True)
        said.append("random weights" in caplog.text)
    assert said == [True, False, False]


# --- lengths and devices ---


@pytest.mark.parametrize("samples", [1, 3, 4, 1001])
def test_audio_is_filled_to_the_shortest_length_and_the_multiple_that_a_network_takes(samples):
    heard = []
    model = Wrapped(f"{HERE}.Pretrained", minimum_samples=6, multiple_samples=4)
    model.module.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].shape[1]))
    noisy = torch.randn(2, samples)
    torch.testing.assert_close(model(noisy).waveform, noisy)
    assert heard == [max(8, -(-samples // 4) * 4)]


def test_a_length_that_a_network_cannot_take_keeps_its_error_with_a_note_on_what_to_state():
    with pytest.raises(RuntimeError) as caught:
        Wrapped(f"{HERE}.Net")(torch.randn(1, 7))
    assert "multiple_samples" in caught.value.__notes__[0] and "[1, 7]" in caught.value.__notes__[0]


def test_tensors_that_are_no_buffers_go_where_the_audio_is():
    model = Wrapped(f"{HERE}.Net").to("meta")
    assert model.module.window.device.type == "cpu"  # (what Module.to does)
    assert model(torch.empty(1, 8, device="meta")).waveform.device.type == "meta"
    assert Wrapped(f"{HERE}.Net")(torch.zeros(1, 8)).waveform.device.type == "cpu"
