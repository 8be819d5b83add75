"""SemCKD: the equation, the batch that is a width of the heads, and who gets gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kdse.distiller import Distiller
from kdse.objectives import base
from kdse.objectives.base import Exchange
from kdse.objectives.semantic import SemanticCalibration
from tests.toys import ToyData, make_student, make_teacher, make_trainer

B, T = 4, 3
TEACHER = {"t0": (3, T, 4), "t1": (2, T, 2)}  # channels, frames, frequencies
STUDENT = {"s0": (2, T, 4), "s1": (2, 2 * T, 2)}


def activations(spec: dict[str, tuple[int, int, int]], seed: int, dtype=torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(B, *shape, dtype=dtype, generator=generator) for n, shape in spec.items()}


def bound(pairs=None, dtype=torch.float64, **settings) -> tuple[SemanticCalibration, nn.ModuleDict]:
    objective = SemanticCalibration(**{"batch_size": B, "factor": 2, **settings})
    objective.bound_pairs = pairs or [(t, s) for s in STUDENT for t in TEACHER]
    shapes = [{n: torch.Size([1, *shape]) for n, shape in spec.items()} for spec in (TEACHER, STUDENT)]
    torch.manual_seed(0)
    return objective, objective.build_heads(*shapes).to(dtype)


def exchange(heads, teacher, student) -> Exchange:
    noisy = torch.zeros(len(next(iter(student.values()))), 8)
    return Exchange(noisy=noisy, student=None, teacher_taps=teacher, student_taps=student, heads=heads)


def loop_affine(layer: nn.Linear, vector: list[float]) -> list[float]:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [b + sum(w * v for w, v in zip(row, vector, strict=True)) for row, b in rows]


def loop_embedding(perceptron: nn.Sequential, x: torch.Tensor, n: int, scale: bool) -> list[float]:
    """Row n of the batch similarities through the perceptron, normalised to unit length."""
    flat = [item.flatten().tolist() for item in x]
    row = [sum(a * b for a, b in zip(flat[n], other, strict=True)) for other in flat]
    row = [v / len(flat[0]) for v in row] if scale else row
    out = loop_affine(perceptron[2], [max(0.0, v) for v in loop_affine(perceptron[0], row)])
    length = math.sqrt(sum(v * v for v in out))
    return [v / length for v in out]


def halved(x: torch.Tensor, axis: int) -> torch.Tensor:
    even, odd = x.unfold(axis, 2, 2).unbind(-1)
    return (even + odd) / 2


@pytest.mark.parametrize("scale", [True, False])
def test_the_value_agrees_with_a_loop(scale):
    objective, heads = bound(scale_similarity=scale)
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    affinity, total = heads["affinity"], 0.0
    for s, x in enumerate(student.values()):
        errors = []
        for t, y in enumerate(teacher.values()):
            a, b = x, y  # both at the smaller frame count and the smaller frequency count
            a = halved(a, 2) if a.shape[2] > b.shape[2] else a
            a, b = (halved(a, 3), b) if a.shape[3] > b.shape[3] else (a, halved(b, 3) if b.shape[3] > a.shape[3] else b)
            gap = heads["regressors"][f"{s}_{t}"](a) - b
            errors.append([sum(v * v for v in item.flatten().tolist()) / item.numel() for item in gap])
        for n in range(B):
            query = loop_embedding(affinity.queries[s], x, n, scale)
            keys = [loop_embedding(affinity.keys[t], y, n, scale) for t, y in enumerate(teacher.values())]
            scores = [math.exp(sum(p * q for p, q in zip(query, key, strict=True))) for key in keys]
            total += sum(w / sum(scores) * errors[t][n] for t, w in enumerate(scores)) / (B * len(student))
    assert objective.loss(exchange(heads, teacher, student)).item() == pytest.approx(total, rel=1e-10)


def test_weights_are_not_negative_and_add_up_to_one():
    _, heads = bound()
    grams = [[x.flatten(1) @ x.flatten(1).t() for x in activations(spec, 0).values()] for spec in (TEACHER, STUDENT)]
    for weights in heads["affinity"](*grams):
        assert weights.shape == (B, len(TEACHER)) and torch.all(weights > 0)
        torch.testing.assert_close(weights.sum(-1), torch.ones(B, dtype=torch.float64))


def test_a_regressed_student_that_equals_the_teacher_costs_nothing():
    objective, heads = bound(pairs=[("t0", "s0")])
    heads["regressors"]["0_0"] = nn.Identity()
    teacher = activations({"t0": TEACHER["t0"]}, 0)
    assert objective.loss(exchange(heads, teacher, {"s0": teacher["t0"].clone()})).item() == 0


def test_regressors_are_as_in_the_authors_code():
    _, heads = bound(pairs=[("t0", "s0")])
    convolutions = [m for m in heads["regressors"]["0_0"] if isinstance(m, nn.Conv2d)]
    described = [(m.in_channels, m.out_channels, m.kernel_size) for m in convolutions]
    assert described == [(2, 6, (1, 1)), (6, 6, (3, 3)), (6, 3, (1, 1))]


def test_gradients_reach_the_student_and_the_heads_only():
    objective, heads = bound()
    teacher = {n: x.requires_grad_() for n, x in activations(TEACHER, 0).items()}
    student = {n: x.requires_grad_() for n, x in activations(STUDENT, 1).items()}
    objective.loss(exchange(heads, teacher, student)).backward()
    assert all(x.grad is None for x in teacher.values())
    assert all(x.grad.abs().max() > 0 for x in student.values())
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_an_unpaired_teacher_layer_has_no_say():
    objective, heads = bound(pairs=[("t0", "s0"), ("t0", "s1"), ("t1", "s1")])
    assert list(heads["regressors"]) == ["0_0", "1_0", "1_1"]
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    student["s0"].requires_grad_()
    gradients = []
    for other in (teacher["t1"], teacher["t1"].flip(0)):
        loss = objective.loss(exchange(heads, {**teacher, "t1": other}, student))
        gradients.append(torch.autograd.grad(loss, student["s0"])[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("silent", ["teacher", "student", "both"])
@pytest.mark.parametrize("scale", [True, False])
def test_silence_is_finite(silent, scale):
    objective, heads = bound(dtype=torch.float32, scale_similarity=scale)
    teacher = {n: x * (silent == "student") for n, x in activations(TEACHER, 0, torch.float32).items()}
    student = {n: x * (silent == "teacher") for n, x in activations(STUDENT, 1, torch.float32).items()}
    student = {n: x.requires_grad_() for n, x in student.items()}
    loss = objective.loss(exchange(heads, teacher, student))
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in [*student.values(), *heads.parameters()])


def test_a_batch_of_another_size_names_the_flag():
    objective, heads = bound()
    teacher, student = ({n: x[:3] for n, x in activations(spec, 0).items()} for spec in (TEACHER, STUDENT))
    with pytest.raises(ValueError, match=r"batches of 4 items and this one has 3.*semantic_calibration.batch_size=3"):
        objective.loss(exchange(heads, teacher, student))


def test_gather_compares_the_global_batch(monkeypatch):
    """Two processes of two items each: the loss is that of the four, and without gather two are an error."""
    objective, heads = bound()
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    together = objective.loss(exchange(heads, teacher, student))
    halves = {n: x[:2] for n, x in {**teacher, **student}.items()}
    whole = {id(half): {**teacher, **student}[n] for n, half in halves.items()}
    monkeypatch.setattr(base, "gather_batch", lambda half: whole[id(half)])
    parts = exchange(heads, {n: halves[n] for n in TEACHER}, {n: halves[n] for n in STUDENT})
    assert torch.equal(objective.loss(parts), together)
    objective.gather = False
    with pytest.raises(ValueError, match="batch_size=2"):
        objective.loss(parts)


def test_a_pair_of_real_models_trains(tmp_path):
    objective = SemanticCalibration(batch_size=4, pairs="encoder", expansion=0.5)
    module = Distiller(teacher=make_teacher(), student=make_student(), metrics=["si_sdr"])
    before = [p.detach().clone() for p in module.student.parameters()]
    trainer = make_trainer(tmp_path, callbacks=[objective], max_steps=2)
    trainer.fit(module, ToyData(items=8))
    assert len(objective.bound_pairs) == 16 and trainer.global_step == 2
    assert any(not torch.equal(a, b) for a, b in zip(before, module.student.parameters(), strict=True))


@pytest.mark.parametrize(
    ("bad", "named"),
    [({"batch_size": 1}, "batch_size"), ({"batch_size": 3}, "factor"), ({"expansion": 0}, "expansion")],
)
def test_an_impossible_setting_is_named(bad, named):
    with pytest.raises(ValueError, match=named):
        SemanticCalibration(**bad)
