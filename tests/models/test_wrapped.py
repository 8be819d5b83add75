"""Any module from wave to wave can be a teacher, but a checkpoint cannot smuggle one in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdse.models import Wrapped
from kdse.models.checkpoint import describe, load_model

HERE = __name__


class Gain(nn.Module):
    def __init__(self, gain: float = 0.5, cut: int = 0, tuple_out: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        self.cut, self.tuple_out = cut, tuple_out

    def forward(self, wave):
        out = self.gain * wave[..., : wave.shape[-1] - self.cut]
        return (out, None) if self.tuple_out else out


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
