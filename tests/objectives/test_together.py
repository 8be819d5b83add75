"""Promises that every objective keeps in a real run: alone, and all of them at once."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

import kdse.distiller
import kdse.objectives
from kdse.distiller import Distiller
from kdse.losses import PhaseSensitive
from kdse.models import Cruse, Dccrn
from kdse.models.base import Estimate
from kdse.models.checkpoint import fingerprint, load_model
from kdse.objectives import Objective
from kdse.schedule import Joint
from kdse.taps import probe, record
from tests.toys import STUDENT_CHANNELS, TEACHER_CHANNELS, ToyData, make_student, make_teacher, make_trainer

BATCH = 4  # of ToyData
BOTTLENECK = {"views": {"global": [["bottleneck", "bottleneck"]]}}
ARGUMENTS = {
    "MultiViewAttention": {**BOTTLENECK, "view_weights": {"global": 1.0}},
    "OutputDistillation": {"on": "mask"},
    "SemanticCalibration": {"batch_size": BATCH, "pairs": "bottleneck"},
    "TaughtLoss": {"loss": PhaseSensitive()},
    "TimeFrequencyCalibrated": {"batch_size": BATCH, "frames": 8, "mid_channels": 4},
}
KINDS = [name for name in kdse.objectives.__all__ if name not in ("Objective", "Exchange")]


def make(name: str) -> Objective:
    return getattr(kdse.objectives, name)(**copy.deepcopy(ARGUMENTS.get(name, {})))


def distiller(**arguments) -> Distiller:
    torch.manual_seed(0)
    defaults = {"teacher": make_teacher, "student": make_student, "metrics": ["si_sdr"]}
    return Distiller(**{**defaults, "optimizer": lambda p: torch.optim.Adam(p, lr=1e-3), **arguments})


def run(model: Distiller, folder, objectives: list[Objective], steps: int = 1, gamma: float = 1.0):
    trainer = make_trainer(folder, [*objectives, Joint(gamma)], max_steps=steps)
    trainer.fit(model, ToyData())
    return trainer


def test_every_objective_that_is_shipped_is_tested_here():
    shipped = {n for n in dir(kdse.objectives) if isinstance(getattr(kdse.objectives, n), type)}
    assert {n for n in shipped if issubclass(getattr(kdse.objectives, n), Objective)} == {*KINDS, "Objective"}


@pytest.mark.parametrize("name", KINDS)
def test_every_objective_alone_moves_the_student_and_not_the_teacher(name, tmp_path):
    model = distiller()
    student, teacher = fingerprint(model.student), fingerprint(model.teacher)
    trainer = run(model, tmp_path, [make(name)])
    assert fingerprint(model.student) != student and fingerprint(model.teacher) == teacher
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    exported = load_model(tmp_path / "last.ckpt")
    assert fingerprint(exported) == fingerprint(model.student)  # (heads, if there were any, are gone)


class OneFrameMore(Cruse):
    """Fills up the last frame where the student drops it."""

    def forward(self, noisy):
        longer = super().forward(torch.nn.functional.pad(noisy, (0, self.hop_samples)))
        return Estimate(longer.waveform[:, : noisy.shape[1]])


@pytest.mark.parametrize("name", [name for name in KINDS if getattr(kdse.objectives, name).uses_taps])
def test_every_objective_on_taps_takes_a_teacher_of_one_frame_more_as_if_it_had_not_that_frame(name):
    model, objective = distiller(teacher=lambda: OneFrameMore(channels=TEACHER_CHANNELS)), make(name)
    model.bind_objective(objective)
    torch.manual_seed(1)
    noisy = 0.1 * torch.randn(BATCH, 4096)
    exchange = model.exchange({"noisy": noisy, "clean": 0.5 * noisy}, [objective])
    exchange.heads = model.heads_of(objective)
    value = objective.loss(exchange)
    value.backward()
    whole = record(model.teacher, model.teacher_taps, noisy)[1]
    assert torch.isfinite(value) and exchange.teacher_taps
    for tap, activation in exchange.teacher_taps.items():
        assert activation.shape[2] == whole[tap].shape[2] - 1 == exchange.student_taps[tap].shape[2]
        assert torch.equal(activation, whole[tap][:, :, :-1])


def test_taps_are_probed_at_the_length_of_the_runs_crops(tmp_path, monkeypatch):
    lengths = []
    monkeypatch.setattr(kdse.distiller, "probe", lambda model, taps, n: lengths.append(n) or probe(model, taps, n))
    for seconds in (0.3, None):
        data = ToyData()
        if seconds:
            data.segment_seconds = seconds
        trainer = make_trainer(tmp_path, [make("Hint"), Joint(1.0)], max_steps=1)
        trainer.fit(distiller(), data)
    assert lengths == [4800, 4800, 32000, 32000]


@pytest.mark.parametrize("name", KINDS)
def test_every_objective_is_finite_with_finite_gradients_on_silence(name):
    model, objective = distiller(), make(name)
    model.bind_objective(objective)
    silence = torch.zeros(BATCH, 4096)
    exchange = model.exchange({"noisy": silence, "clean": silence}, [objective])
    exchange.heads = model.heads_of(objective)
    value = objective.loss(exchange)
    value.backward()
    gradients = [p.grad for p in model.trained_parameters() if p.grad is not None]
    assert torch.isfinite(value) and gradients and all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", KINDS)
def test_every_objective_computes_in_float32_under_autocast(name):
    model, objective = distiller(), make(name)
    model.bind_objective(objective)
    torch.manual_seed(1)
    noisy = 0.1 * torch.randn(BATCH, 4096)
    exchange = model.exchange({"noisy": noisy, "clean": 0.5 * noisy}, [objective])
    exchange.heads = model.heads_of(objective)
    exchange.run_student = exchange.run_teacher = None
    if name == "LatentMix":
        pytest.skip("runs both networks again, in the precision of the run")
    plain = objective.loss(exchange).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = objective.loss(exchange).detach()
    assert lowered.dtype == torch.float32
    heads = len(exchange.heads) > 0  # (heads are layers of the run, and follow its precision)
    torch.testing.assert_close(lowered, plain, rtol=0.1 if heads else 1e-5, atol=1e-3 if heads else 1e-7)


def test_all_objectives_combine_in_one_run_balanced_or_not(tmp_path):
    for balanced in (False, True):
        objectives = []
        for name in KINDS:
            objective = make(name)
            objective.name = name.lower()
            objectives.append(objective)
        model = distiller(balance_gradients=balanced)
        before = fingerprint(model.student)
        run(model, tmp_path, objectives, steps=2, gamma=0.5)
        assert fingerprint(model.student) != before
        assert all(torch.isfinite(p).all() for p in model.trained_parameters())


def comparable(name: str) -> bool:
    """Whether an objective compares activations bin by bin, so that other hops and frequencies need a decision."""
    return name in ("Hint", "AttentionTransfer", "VariationalInformation", "SimilarityPreserving", "CosineAlignment")


@pytest.mark.parametrize("name", [n for n in KINDS if comparable(n)])
def test_a_pair_that_cannot_be_compared_is_an_error_that_names_it_not_a_broadcast(name, tmp_path):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    student = Dccrn(
        channels=[2, 2, 2, 2, 2, 2], lstm_units=4
    )  # hop 100 and 128, 64, ... bins against 256 and 40, 20, ...
    arguments = {"head": "linear", "head_over": "channels"} if name == "CosineAlignment" else {}
    objective = getattr(kdse.objectives, name)(pairs=[["encoder1", "encoder1"]], **arguments)
    model = distiller(teacher=Cruse(channels=STUDENT_CHANNELS), student=student)
    with pytest.raises(ValueError, match=r"encoder1.*\[.*\].*encoder1.*\[.*\]"):
        run(model, tmp_path, [objective])
