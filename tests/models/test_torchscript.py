"""A TorchScript file can teach: same answer as the network it was made from, no code of its own without trust."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdse.distiller import Distiller
from kdse.models.checkpoint import describe, fingerprint, load_model
from kdse.models.torchscript import TorchScript
from kdse.objectives.output import OutputDistillation
from kdse.objectives.similarity import SimilarityPreserving
from kdse.taps import TapRecorder, resolve_taps
from tests.toys import ToyData, make_student, make_trainer


class Filter(nn.Module):
    """A short filter with any input layout; its output is a few samples longer or shorter than its input."""

    def __init__(self, padding: int = 2, as_tuple: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 5, padding=padding)
        self.as_tuple = as_tuple

    def forward(self, wave):
        out = self.conv(wave if wave.dim() == 3 else wave[:, None])
        return (out, out.sum()) if self.as_tuple else out


class Reflecting(nn.Module):
    def forward(self, wave):
        return nn.functional.pad(wave[:, None], (100, 0), mode="reflect")[:, 0, 100:]


def scripted(network: nn.Module, folder, name: str = "net.pt", frozen: bool = False) -> str:
    script = torch.jit.trace(network.eval(), torch.randn(2, 1, 999))
    torch.jit.save(torch.jit.freeze(script) if frozen else script, str(folder / name))
    return str(folder / name)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("as_tuple", [False, True])
def test_the_file_answers_as_its_network(tmp_path, frozen, as_tuple):
    network = Filter(as_tuple=as_tuple)
    model = TorchScript(scripted(network, tmp_path, frozen=frozen), channel_axis=True).eval()
    for samples in (1, 7, 1001):
        noisy = torch.randn(3, samples)
        torch.testing.assert_close(model(noisy).waveform, network.conv(noisy[:, None])[:, 0])


@pytest.mark.parametrize("padding", [0, 4])
def test_an_answer_of_another_length_is_cut_or_filled(tmp_path, padding):
    network = Filter(padding)
    noisy = torch.randn(2, 500)
    raw = network.conv(noisy[:, None])[:, 0]
    wave = TorchScript(scripted(network, tmp_path), channel_axis=True)(noisy).waveform
    assert wave.shape == noisy.shape
    both = min(raw.shape[1], 500)
    torch.testing.assert_close(wave[:, :both], raw[:, :both])
    assert not wave[:, both:].any()


def test_short_audio_is_filled_up_for_a_network_that_fails_on_it(tmp_path):
    torch.jit.script(Reflecting()).save(str(tmp_path / "r.pt"))
    noisy = torch.randn(1, 50)
    with pytest.raises(RuntimeError, match="[Pp]adding"):
        TorchScript(str(tmp_path / "r.pt"))(noisy)
    wave = TorchScript(str(tmp_path / "r.pt"), minimum_samples=400)(noisy).waveform
    torch.testing.assert_close(wave, noisy)


def test_audio_is_filled_up_to_the_multiple_that_a_network_takes(tmp_path):
    class Strided(nn.Module):
        def forward(self, wave):
            return wave.unflatten(1, (-1, 8)).flatten(1)

    torch.jit.script(Strided()).save(str(tmp_path / "s.pt"))
    noisy = torch.randn(2, 50)
    torch.testing.assert_close(TorchScript(str(tmp_path / "s.pt"), multiple_samples=8)(noisy).waveform, noisy)
    with pytest.raises(ValueError, match="multiple_samples=0"):
        TorchScript(str(tmp_path / "s.pt"), multiple_samples=0)


def test_a_teacher_is_loaded_anew_where_the_audio_is_with_its_weights_and_its_plain_tensors(tmp_path, monkeypatch):
    class Windowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(2.0))
            self.window = torch.ones(4)  # no buffer: `Module.to` leaves it where it is

        def forward(self, wave):
            return self.gain * (wave.unflatten(1, (-1, 4)) * self.window).flatten(1)

    torch.jit.script(Windowed()).save(str(tmp_path / "w.pt"))
    model = TorchScript(str(tmp_path / "w.pt")).requires_grad_(False)
    model.module.gain.fill_(3.0)  # as from a checkpoint
    model._placed = torch.device("meta")  # as if it had worked elsewhere
    torch.testing.assert_close(model(torch.ones(1, 8)).waveform, torch.full((1, 8), 3.0))
    monkeypatch.setattr(torch.jit.RecursiveScriptModule, "load_state_dict", lambda *_: None)  # meta has no values
    assert model(torch.empty(1, 8, device="meta")).waveform.device.type == "meta"


def test_what_is_no_torchscript_file_is_named(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name, says in (("weights.pt", "Wrapped"), ("text.pt", "not a file of torch.jit.save"), ("no.pt", "no such")):
        with pytest.raises(ValueError, match=says) as caught:
            TorchScript(str(tmp_path / name))
        assert name in str(caught.value)


def test_an_answer_that_is_no_wave_is_named(tmp_path):
    class Stereo(nn.Module):
        def forward(self, wave):
            return torch.cat([wave, wave], 1)

    model = TorchScript(scripted(Stereo(), tmp_path), channel_axis=True)
    with pytest.raises(ValueError, match=r"\[1, 2, 10\]"):
        model(torch.randn(1, 10))


def test_frozen_files_of_other_weights_have_other_fingerprints(tmp_path):
    paths = [scripted(Filter(), tmp_path, f"{i}.pt", frozen=True) for i in range(2)]
    first, second = (fingerprint(TorchScript(path)) for path in paths)
    assert first != second and first == fingerprint(TorchScript(paths[0]))


def test_a_checkpoint_that_names_a_torchscript_file_needs_trust(tmp_path):
    model = TorchScript(scripted(Filter(), tmp_path), channel_axis=True)
    content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}
    torch.save(content, tmp_path / "script.ckpt")
    with pytest.raises(ValueError, match="--trust-code"):
        load_model(tmp_path / "script.ckpt")
    noisy = torch.randn(1, 100)
    again = load_model(tmp_path / "script.ckpt", trust_code=True)
    torch.testing.assert_close(again(noisy).waveform, model(noisy).waveform)


def test_a_tap_inside_the_program_is_refused_not_silently_empty(tmp_path):
    model = TorchScript(scripted(Filter(), tmp_path), channel_axis=True)
    recorder = TapRecorder(model, resolve_taps(model, {"x": {"path": "module.conv", "layout": "b c t"}}))
    with pytest.raises(ValueError, match="TorchScript"), recorder:
        model(torch.randn(1, 100))


@pytest.mark.parametrize("frozen", [False, True])
def test_a_torchscript_teacher_trains_a_student(tmp_path, frozen):
    teacher = TorchScript(scripted(Filter(), tmp_path, frozen=frozen), channel_axis=True)
    student = make_student()
    before = [p.clone() for p in student.parameters()]
    distiller = Distiller(teacher=teacher, student=student, metrics=["si_sdr"])
    objective = OutputDistillation()
    make_trainer(tmp_path, [objective], max_steps=2).fit(distiller, ToyData())
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert not any(p.requires_grad for p in teacher.parameters())


def test_an_objective_on_taps_says_that_a_torchscript_teacher_has_none(tmp_path):
    distiller = Distiller(teacher=TorchScript(scripted(Filter(), tmp_path)), student=make_student(), metrics=["si_sdr"])
    with pytest.raises(ValueError, match="tap"):
        distiller.bind_objective(SimilarityPreserving())
