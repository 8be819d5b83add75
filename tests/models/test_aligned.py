"""Promises of `kdse.models.aligned`: a teacher whose rate, delay, level or length differs is corrected."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from jsonargparse import ArgumentParser
from torch import nn

from kdse.audio.alignment import fit_length
from kdse.distiller import Distiller
from kdse.models import Cruse
from kdse.models.aligned import Aligned
from kdse.models.base import Estimate, SpeechModel
from kdse.models.checkpoint import describe, fingerprint, load_model
from kdse.models.probe_speech import speech_like
from kdse.models.torchscript import TorchScript
from kdse.objectives.output import OutputDistillation
from kdse.objectives.similarity import SimilarityPreserving
from kdse.taps import TapRecorder, record, resolve_taps
from tests.toys import TEACHER_CHANNELS, ToyData, make_student, make_teacher, make_trainer

HERE = __name__


class Late(SpeechModel):
    """Any model, later, louder, longer."""

    def __init__(
        self,
        delay: int = 0,
        gain: float = 1.0,
        rate: int = 16000,
        longer: int = 0,
        residue: float = 0.0,
        channels: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.sample_rate_hz = rate
        self.delay, self.longer, self.residue = delay, longer, residue
        self.gain = nn.Parameter(torch.tensor(gain))
        self.calls = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(99)
            self.network = Cruse(channels=channels) if channels else None

    def forward(self, noisy):
        self.calls += 1
        wave = noisy if self.network is None else self.network(noisy).waveform
        wave = wave + self.residue * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(self.calls))
        return Estimate(self.gain * fit_length(wave, noisy.shape[1] + self.longer, start=-self.delay))

    def taps(self):
        taps = {} if self.network is None else self.network.taps()
        return {name: replace(tap, path=f"network.{tap.path}") for name, tap in taps.items()}


# --- the teacher ---


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("delay", [-300, 137, 512])
@pytest.mark.parametrize("longer", [-90, 0, 700])
def test_a_late_loud_teacher_of_any_rate_and_length_becomes_the_original(rate, delay, longer):
    teacher = Aligned(Late(delay, -0.5, rate, longer), sample_rate_hz=16000)
    found = teacher.measure()
    assert found.delay_samples == delay
    assert found.gain == pytest.approx(-0.5, rel=1e-4)
    noisy = speech_like(16000, 1.0)[:, :15999]
    wave = teacher(noisy).waveform
    end = 15999 - (90 if longer < 0 else 0)  # what a shorter answer lacks does not exist
    tolerance = 1e-4 if rate == 16000 else 0.01  # resampling dulls the top of the band
    assert wave.shape == noisy.shape
    assert (wave - noisy)[:, :end].abs().max() < tolerance


def test_a_delayed_network_answers_as_the_network_itself():
    plain = make_teacher().eval()
    noisy = torch.randn(2, 5001)
    padded = plain(torch.nn.functional.pad(noisy, (0, 256))).waveform
    teacher = Aligned(Late(256, 2.0, channels=TEACHER_CHANNELS)).eval()
    alignment = teacher.measure()
    assert alignment.delay_samples == 256
    wave = teacher(noisy).waveform
    torch.testing.assert_close(wave * alignment.gain / 2, padded[:, :5001], atol=1e-6, rtol=1e-4)


def test_the_measurement_survives_a_noisy_teacher():
    noisy = Late(137, -0.5, residue=0.1)  # at about +5 dB against the probe of -25 dB
    found = Aligned(noisy, minimum_correlation=0.3).measure()
    assert found.delay_samples == 137
    assert found.gain == pytest.approx(-0.5, rel=0.03)


def test_without_flush_the_end_is_silent_and_the_teacher_hears_no_more_than_the_audio():
    heard = []
    inner = Late(100)
    inner.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0].shape[1]))
    noisy = torch.randn(1, 2000)
    wave = Aligned(inner, delay_samples=100, gain=1.0, flush=False)(noisy).waveform
    torch.testing.assert_close(wave[:, :1900], noisy[:, :1900])
    assert not wave[:, 1900:].any() and heard == [2000]


def test_given_values_are_used_and_nothing_is_measured():
    inner = Late(30, 4.0)
    noisy = torch.randn(2, 1000)
    wave = Aligned(inner, delay_samples=30, gain=4.0)(noisy).waveform
    torch.testing.assert_close(wave, noisy)
    assert inner.calls == 1
    wave = Aligned(inner, delay_samples=0, gain=1.0)(noisy).waveform
    torch.testing.assert_close(wave, inner(noisy).waveform)


def test_each_rescales_every_item_on_its_own():
    class Normalising(SpeechModel):
        def forward(self, noisy):
            return Estimate(0.1 * noisy / noisy.square().mean(1, keepdim=True).sqrt())

    items = speech_like(16000, 1.0) * torch.tensor([[0.5], [1.0], [3.0]])
    wave = Aligned(Normalising(), gain="each")(items).waveform
    torch.testing.assert_close(wave, items, rtol=1e-3, atol=1e-4)
    once = Aligned(Normalising())(items).waveform
    assert (once - items).abs().max() > 0.1


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_very_short_audio_and_silence_give_finite_answers_of_the_same_length(samples):
    for gain in (None, "each"):
        teacher = Aligned(Late(137, 0.5, 48000), gain=gain)
        for noisy in (torch.randn(2, samples), torch.zeros(2, samples)):
            wave = teacher(noisy).waveform
            assert wave.shape == noisy.shape and wave.isfinite().all()


def test_a_teacher_in_step_passes_through_whole():
    plain = make_teacher().eval()
    noisy = torch.randn(1, 3000)
    estimate, original = Aligned(plain, delay_samples=0, gain=1.0)(noisy), plain(noisy)
    for ours, theirs in zip(estimate, original, strict=True):
        torch.testing.assert_close(ours, theirs)
    halved = Aligned(plain, delay_samples=0, gain=2.0)(noisy)
    torch.testing.assert_close(halved.spectrum, original.spectrum / 2)
    late = Aligned(plain, delay_samples=5, gain=1.0)(noisy)
    assert halved.mask is None and late.spectrum is None and late.mask is None


def test_a_gain_near_one_is_left_alone():
    assert Aligned(Late(gain=1.05)).measure().gain == 1.0
    assert Aligned(Late(gain=1.07)).measure().gain == pytest.approx(1.07, rel=1e-4)
    assert Aligned(Late(gain=-1.0)).measure().gain == pytest.approx(-1, rel=1e-4)


def test_what_was_found_is_logged_once(caplog):
    with caplog.at_level(logging.INFO, logger="kdse.models.aligned"):
        teacher = Aligned(Late(512, -0.5))
        for _ in range(3):
            teacher(torch.randn(1, 100))
    lines = [r.getMessage() for r in caplog.records]
    assert lines == [
        "teacher output is 512 samples late (correlation -1.00): corrected",
        "teacher output has a gain of -0.500 (-6.0 dB, inverted): corrected",
    ]


def test_a_teacher_that_cannot_be_measured_is_an_error_that_says_what_to_do():
    class Deaf(SpeechModel):
        def forward(self, noisy):
            return Estimate(torch.randn(noisy.shape, generator=torch.Generator().manual_seed(8)))

    for inner in (Deaf(), Late(gain=0.0)):
        with pytest.raises(ValueError, match="`probe`, or both `delay_samples` and `gain`"):
            Aligned(inner)(torch.randn(1, 100))
        assert Aligned(inner, delay_samples=0, gain=1.0)(torch.randn(1, 100)).waveform.shape == (1, 100)


def test_measuring_leaves_no_trace():
    inner = Late(10, channels=TEACHER_CHANNELS).train()
    state, before = torch.get_rng_state(), copy.deepcopy(inner.state_dict())
    Aligned(inner).measure()
    assert torch.equal(state, torch.get_rng_state()) and inner.training
    for name, value in inner.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_teacher_that_throws_dice_is_measured_alike_every_time():
    class Diffusing(SpeechModel):
        def forward(self, noisy):
            return Estimate(0.5 * noisy + 0.02 * torch.randn_like(noisy))

    first = Aligned(Diffusing()).measure()
    torch.manual_seed(123)
    assert Aligned(Diffusing()).measure() == first


def test_new_weights_are_measured_anew():
    teacher = Aligned(Late(gain=2.0))
    assert teacher.measure().gain == pytest.approx(2, rel=1e-4)
    teacher.load_state_dict(Aligned(Late(gain=0.5)).state_dict())
    assert teacher.measure().gain == pytest.approx(0.5, rel=1e-4)
    teacher.inner.load_state_dict(Late(gain=3.0).state_dict())
    assert teacher.measure().gain == pytest.approx(3, rel=1e-4)


def test_the_fingerprint_knows_weights_and_settings_and_not_what_was_measured(tmp_path):
    teacher = Aligned(Late(5))
    before = fingerprint(teacher)
    teacher.measure()
    assert fingerprint(teacher) == before == fingerprint(Aligned(Late(5), gain=None))
    speech = tmp_path / "p.wav"
    soundfile.write(speech, 0.1 * np.ones(100), 16000)
    others = [Aligned(Late(5, gain=2.0)), Aligned(Late(5), gain=1.0), Aligned(Late(5), probe=str(speech))]
    assert len({before, *map(fingerprint, others)}) == 4
    assert fingerprint(Aligned(Late(5), gain=1)) == fingerprint(others[1])


def test_the_teacher_can_be_given_as_plain_data_a_checkpoint_or_an_instance(tmp_path):
    plain = {"class_path": f"{HERE}.Late", "init_args": {"delay": 3, "gain": 2.0}}
    noisy = torch.randn(1, 500)
    torch.testing.assert_close(Aligned(plain)(noisy).waveform, noisy, atol=1e-4, rtol=1e-3)
    assert describe(Aligned(Late(3, 2.0)))["model"]["init_args"]["model"]["init_args"]["delay"] == 3
    cruse = make_teacher().eval()
    content = {"state_dict": {f"model.{k}": v for k, v in cruse.state_dict().items()}, "kdse": describe(cruse)}
    torch.save(content, tmp_path / "t.ckpt")
    loaded = Aligned(str(tmp_path / "t.ckpt"), delay_samples=0, gain=1.0)
    assert loaded.brings_weights
    torch.testing.assert_close(loaded.eval()(noisy).waveform, cruse(noisy).waveform)


def test_a_checkpoint_of_an_aligned_model_needs_trust(tmp_path):
    model = Aligned({"class_path": f"{HERE}.Late", "init_args": {"gain": 2.0}}, gain=1.0)
    content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}
    torch.save(content, tmp_path / "aligned.ckpt")
    with pytest.raises(ValueError, match="--trust-code"):
        load_model(tmp_path / "aligned.ckpt")
    loaded = load_model(tmp_path / "aligned.ckpt", trust_code=True)
    assert isinstance(loaded, Aligned) and isinstance(loaded.inner, Late) and loaded.gain == 1.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"gain": "every"}, "gain='every'"),
        ({"gain": 0.0}, "gain=0"),
        ({"maximum_delay_ms": 0.0}, "maximum_delay_ms"),
        ({"minimum_correlation": 1.5}, "minimum_correlation"),
        ({"model": {"init_args": {}}}, "class_path"),
        ({"model": {"class_path": "kdse.models.NoSuch"}}, "NoSuch"),
        ({"model": {"class_path": "torch.nn.Linear"}}, "not a kdse model"),
        ({"model": {"class_path": f"{HERE}.Late", "init_args": {"colour": 1}}}, "colour"),
        ({"model": {"class_path": "kdse.models.Recorded"}}, "recorded teacher"),
        ({"model": "no/such.ckpt"}, "no such file"),
    ],
)
def test_wrong_arguments_are_named(arguments, says):
    with pytest.raises(ValueError, match=says):
        Aligned(**{"model": Late(), **arguments})


# --- in the distiller ---


def test_taps_of_the_inner_model_pass_through_and_are_recorded_while_it_is_measured():
    inner = make_teacher().eval()
    teacher = Aligned(inner, gain=1.0).eval()
    assert list(teacher.taps()) == list(inner.taps())
    assert teacher.taps()["encoder0"].path == "inner." + inner.taps()["encoder0"].path
    noisy = torch.randn(2, 4096)
    with torch.no_grad():
        _, ours = record(teacher, teacher.taps(), noisy)  # the first use: it measures in here
        _, theirs = record(inner, inner.taps(), noisy)
    for name, activation in theirs.items():
        torch.testing.assert_close(ours[name], activation)


def test_hooks_are_back_after_the_measurement():
    inner = make_teacher()
    seen = []
    handle = inner.register_forward_hook(lambda *_: seen.append(1))
    teacher = Aligned(inner)
    teacher.measure()
    assert not seen
    teacher(torch.randn(1, 600))
    assert seen == [1]
    handle.remove()
    teacher(torch.randn(1, 600))
    assert seen == [1]


@pytest.mark.parametrize("rate", [16000, 48000])
def test_an_aligned_teacher_trains_a_student_by_its_output(tmp_path, rate):
    teacher = Aligned(Late(137, -0.5, rate, residue=0.001))
    student = make_student()
    before = [p.clone() for p in student.parameters()]
    make_trainer(tmp_path, [OutputDistillation()], max_steps=2).fit(
        Distiller(teacher=teacher, student=student, metrics=["si_sdr"]), ToyData()
    )
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    assert teacher.measure().delay_samples == 137


def test_an_aligned_teacher_gives_the_same_loss_on_taps_as_the_teacher_itself(tmp_path):
    losses = []
    for wrap in (lambda model: model, lambda model: Aligned(model, gain=1.0)):
        torch.manual_seed(0)
        distiller = Distiller(teacher=wrap(make_teacher()), student=make_student(), metrics=["si_sdr"])
        objective = SimilarityPreserving()
        trainer = make_trainer(tmp_path, [objective], max_steps=3)
        trainer.fit(distiller, ToyData())
        losses.append(trainer.callback_metrics["train/loss"].item())
        assert objective.bound_pairs
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_run_under_an_aligned_teacher_resumes(tmp_path):
    def fit(steps, **settings):
        torch.manual_seed(0)
        student = make_student()
        torch.manual_seed(0)
        for parameter in student.parameters():
            nn.init.normal_(parameter, std=0.1)
        teacher = Aligned(Late(137, -0.5, channels=TEACHER_CHANNELS))
        trainer = make_trainer(tmp_path, [OutputDistillation()], max_steps=steps)
        trainer.fit(Distiller(teacher=teacher, student=student, metrics=["si_sdr"]), ToyData(), **settings)
        return trainer, student

    trainer, _ = fit(2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = fit(4, ckpt_path=tmp_path / "half.ckpt")
    _, whole = fit(4)
    for a, b in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_aligned_torchscript_teacher_works(tmp_path, frozen):
    class Delay(nn.Module):
        def forward(self, wave):
            return 3 * nn.functional.pad(wave, (64, 0))[:, :-64]

    script = torch.jit.script(Delay().eval())
    torch.jit.save(torch.jit.freeze(script) if frozen else script, str(tmp_path / "d.pt"))
    teacher = Aligned(TorchScript(str(tmp_path / "d.pt"), sample_rate_hz=48000))
    assert teacher.measure().delay_samples == 64
    noisy = speech_like(16000, 0.5)
    assert (teacher(noisy).waveform - noisy).abs().max() < 0.01
    make_trainer(tmp_path, [OutputDistillation()], max_steps=1).fit(
        Distiller(teacher=teacher, student=make_student(), metrics=["si_sdr"]), ToyData()
    )


def test_a_config_names_the_inner_teacher_by_class_path():
    parser = ArgumentParser()
    parser.add_subclass_arguments(SpeechModel, "teacher")
    plain = f'{{"class_path": "{HERE}.Late", "init_args": {{"delay": 3}}}}'
    arguments = ["--teacher=kdse.models.aligned.Aligned", f"--teacher.model={plain}"]
    for flags, gain in (([], None), (["--teacher.gain=each"], "each"), (["--teacher.gain=2"], 2.0)):
        teacher = parser.instantiate(parser.parse_args([*arguments, *flags])).teacher
        assert isinstance(teacher.inner, Late) and teacher.gain == gain and teacher.delay_samples is None
        assert describe(teacher)["model"]["init_args"]["model"]["class_path"] == f"{HERE}.Late"


def test_the_recorder_of_a_tapped_teacher_can_be_used_twice():
    teacher = Aligned(Late(7, channels=TEACHER_CHANNELS))
    recorder = TapRecorder(teacher, resolve_taps(teacher, ["inner.network.encoder.0"]))
    with recorder:
        teacher(torch.randn(1, 1000))
    first = recorder.activations()
    with recorder:
        teacher(torch.randn(1, 1000))
    assert len(first) == len(recorder.activations()) == 1
