"""Attention over teacher layers: the equations, and that a guarded target cannot collapse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kdse.distiller import Distiller
from kdse.objectives.base import Exchange
from kdse.objectives.compression import AttentionCompression
from tests.toys import ToyData, make_student, make_teacher, make_trainer

B, T = 3, 4
TEACHER = {"t0": (5, 4), "t1": (3, 2)}  # channels, frequencies
STUDENT = {"s0": (2, 2), "s1": (3, 2)}


def activations(spec: dict[str, tuple[int, int]], seed: int, dtype=torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(B, c, T, f, dtype=dtype, generator=generator) for n, (c, f) in spec.items()}


def bound(pairs=None, dtype=torch.float64, **settings) -> tuple[AttentionCompression, nn.ModuleDict]:
    objective = AttentionCompression(**settings)
    objective.bound_pairs = pairs or [(t, s) for s in STUDENT for t in TEACHER]
    shapes = [{n: torch.Size([1, c, T, f]) for n, (c, f) in spec.items()} for spec in (TEACHER, STUDENT)]
    torch.manual_seed(0)
    return objective, objective.build_heads(*shapes).to(dtype)


def value(objective, heads, teacher, student) -> torch.Tensor:
    return objective.loss(
        Exchange(noisy=torch.zeros(B, 8), student=None, teacher_taps=teacher, student_taps=student, heads=heads)
    )


def loop_standardise(rows: list[list[float]]) -> list[list[float]]:
    """One channel of one item, [T][F]."""
    flat = [v for row in rows for v in row]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in flat) / len(flat) + 1e-8)
    return [[(v - mean) / deviation for v in row] for row in rows]


def loop_affine(vector: list[float], weight, bias=None) -> list[float]:
    rows = weight.flatten(1).tolist()
    start = [0.0] * len(rows) if bias is None else bias.tolist()
    return [b + sum(w * v for w, v in zip(row, vector, strict=True)) for row, b in zip(rows, start, strict=True)]


def loop_cosine(a: list[float], b: list[float]) -> float:
    norms = [math.sqrt(sum(v * v for v in x) + 1e-8) for x in (a, b)]
    return sum(x * y for x, y in zip(a, b, strict=True)) / norms[0] / norms[1]


def loop_loss(head, teacher: list, student: list, distance: str, query: str, temperature: float, width: int) -> float:
    total = 0.0
    for j, s in enumerate(student):
        layer = 0.0
        for n in range(B):
            values = []
            for i, t in enumerate(teacher):
                x = [loop_standardise(channel) for channel in t[n].tolist()]
                v = [[[0.0] * t.shape[3] for _ in range(T)] for _ in range(width)]
                for frame in range(T):
                    for f in range(t.shape[3]):
                        for k, y in enumerate(loop_affine([c[frame][f] for c in x], head.values[i].weight)):
                            v[k][frame][f] = y
                if t.shape[3] == 2 * s.shape[3]:  # neighbouring frequencies are averaged
                    v = [[[(r[2 * f] + r[2 * f + 1]) / 2 for f in range(s.shape[3])] for r in c] for c in v]
                values.append([loop_standardise(channel) for channel in v])
            means_s = s[n].mean((1, 2)) if query == "pooled" else s[n].mean(2).t()
            for frame in range(T):
                pooled = means_s if query == "pooled" else means_s[frame]
                q = loop_affine(pooled.tolist(), head.queries[j].weight, head.queries[j].bias)
                scores = []
                for i, t in enumerate(teacher):
                    pooled = t[n].mean((1, 2)) if query == "pooled" else t[n].mean(2)[:, frame]
                    key = loop_affine(pooled.tolist(), head.keys[i].weight, head.keys[i].bias)
                    scores.append(math.exp(loop_cosine(q, key) / temperature))
                weights = [score / sum(scores) for score in scores]
                estimate, target = [], []
                for f in range(s.shape[3]):
                    estimate += loop_affine(
                        s[n, :, frame, f].tolist(), head.projections[j].weight, head.projections[j].bias
                    )
                    target += [
                        sum(w * v[k][frame][f] for w, v in zip(weights, values, strict=True)) for k in range(width)
                    ]
                if distance == "mse":
                    layer += sum((a - b) ** 2 for a, b in zip(estimate, target, strict=True)) / len(target)
                else:
                    layer += 1 - loop_cosine(estimate, target)
        total += layer / (B * T)
    return total / len(student)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("query", ["pooled", "frame"])
def test_the_value_agrees_with_a_loop(distance, query):
    objective, heads = bound(distance=distance, query=query, temperature=0.3, width=2, dimensions=3)
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    expected = loop_loss(heads["attention"], [*teacher.values()], [*student.values()], distance, query, 0.3, 2)
    assert value(objective, heads, teacher, student).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("query", "frames"), [("pooled", 1), ("frame", T)])
def test_weights_are_not_negative_and_add_up_to_one(query, frames):
    _, heads = bound(query=query)
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    for weights in heads["attention"].weights([*teacher.values()], [*student.values()]):
        assert weights.shape == (B, frames, len(TEACHER)) and torch.all(weights >= 0)
        torch.testing.assert_close(weights.sum(-1), torch.ones(B, frames, dtype=torch.float64))


def test_a_low_temperature_picks_one_layer_and_a_high_one_none():
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    spread = {}
    for temperature in (1e-4, 1e4):
        _, heads = bound(temperature=temperature)
        spread[temperature] = heads["attention"].weights([*teacher.values()], [*student.values()])[0].amax(-1)
    assert spread[1e-4].min() > 0.99 and spread[1e4].max() < 0.51


def test_a_student_layer_sees_only_the_teacher_layers_it_is_paired_with():
    objective, heads = bound(pairs=[("t0", "s0"), ("t0", "s1"), ("t1", "s1")])
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    attention, layers = heads["attention"], [*student.values()]
    before = attention.targets([*teacher.values()], layers)
    after = attention.targets([teacher["t0"], teacher["t1"].flip(2)], layers)
    assert torch.equal(before[0], after[0]) and not torch.allclose(before[1], after[1])
    assert objective.every_pair


def test_a_student_that_already_is_the_target_costs_nothing():
    objective, heads = bound(width=3, pairs=[("t0", "s1"), ("t1", "s1")])
    attention = heads["attention"]
    nn.init.dirac_(attention.projections[0].weight)
    nn.init.zeros_(attention.projections[0].bias)
    nn.init.zeros_(attention.queries[0].weight)  # the target must not move with the student here
    teacher = activations(TEACHER, 0)
    (target,) = attention.targets([*teacher.values()], [activations(STUDENT, 1)["s1"]])
    assert value(objective, heads, teacher, {"s1": target}).item() == pytest.approx(0, abs=1e-24)


@pytest.mark.parametrize("guard", ["fixed", "reconstruct", None])
def test_only_an_unguarded_target_lets_a_blind_student_win(guard):
    """Students that do not look at their input, and every head, are trained against layers that vary.

    The mixture of n uncorrelated layers keeps 1/n of their variance: that is the best a constant can do, unless the
    target itself collapses.
    """
    objective, heads = bound(guard=guard, width=2, dtype=torch.float32)
    teacher = activations(TEACHER, 0, torch.float32)
    constants = {n: nn.Parameter(torch.randn(1, c, 1, 1)) for n, (c, _) in STUDENT.items()}
    optimizer = torch.optim.Adam([*constants.values(), *heads.parameters()], lr=0.06)
    for _ in range(150):
        student = {n: constants[n].expand(B, -1, T, f) for n, (_, f) in STUDENT.items()}
        loss = value(objective, heads, teacher, student)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    targets = heads["attention"].targets([*teacher.values()], [*student.values()])
    variance = min(x.detach().var((2, 3)).mean().item() for x in targets)
    if guard is None:
        assert variance < 1e-3 and loss.item() < 1e-3
    else:
        assert variance > 0.4 and loss.item() > 0.4


@pytest.mark.parametrize("guard", ["fixed", "reconstruct"])
def test_a_student_that_sees_its_input_learns_the_guarded_target(guard):
    objective, heads = bound(guard=guard, width=2, dtype=torch.float32)
    teacher = activations(TEACHER, 0, torch.float32)
    source = torch.cat([teacher["t0"][..., :2], teacher["t0"][..., 2:], teacher["t1"]], dim=1)
    networks = nn.ModuleDict({n: nn.Conv2d(source.shape[1], c, 1) for n, (c, _) in STUDENT.items()})
    optimizer = torch.optim.Adam([*networks.parameters(), *heads.parameters()], lr=0.06)
    values = []
    for _ in range(100):
        student = {n: network(source) for n, network in networks.items()}
        targets = heads["attention"].targets([*teacher.values()], [*student.values()])
        estimates = heads["attention"].project([*student.values()])
        values.append(sum((a - b).detach().square().mean().item() for a, b in zip(targets, estimates, strict=True)) / 2)
        loss = value(objective, heads, teacher, student)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.3 * values[0]
    assert min(x.detach().var((2, 3)).mean().item() for x in targets) > 0.4


def test_reconstruction_alone_trains_the_values():
    objective, heads = bound(guard="reconstruct")
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    value(objective, heads, teacher, student).backward()
    whole = [p.grad.clone() for p in heads["attention"].values.parameters()]
    heads.zero_grad()
    heads["attention"].reconstruction([*teacher.values()]).backward()
    for gradient, parameter in zip(whole, heads["attention"].values.parameters(), strict=True):
        assert torch.equal(gradient, parameter.grad) and gradient.abs().max() > 0


@pytest.mark.parametrize("guard", ["fixed", "reconstruct", None])
def test_gradients_reach_the_student_and_the_heads_only(guard):
    objective, heads = bound(guard=guard)
    teacher = {n: x.requires_grad_() for n, x in activations(TEACHER, 0).items()}
    student = {n: x.requires_grad_() for n, x in activations(STUDENT, 1).items()}
    value(objective, heads, teacher, student).backward()
    assert all(x.grad is None for x in teacher.values())
    assert all(x.grad.abs().max() > 0 for x in student.values())
    for name, parameter in heads.named_parameters():
        if guard == "fixed" and ".values." in name:
            assert not parameter.requires_grad and parameter.grad is None
        else:
            assert parameter.grad.abs().max() > 0, name


def test_the_run_s_seed_fixes_the_frozen_projections():
    first, again = bound()[1]["attention"].values, bound()[1]["attention"].values
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        rows = a.flatten(1)
        gram = rows @ rows.t() if rows.shape[0] <= rows.shape[1] else rows.t() @ rows
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), atol=1e-5, rtol=0)
        assert torch.equal(a, b)


@pytest.mark.parametrize("guard", ["fixed", "reconstruct", None])
@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("silent", ["teacher", "student", "both"])
def test_silence_is_finite(guard, distance, silent):
    objective, heads = bound(guard=guard, distance=distance, dtype=torch.float32)
    teacher = activations(TEACHER, 0, torch.float32)
    student = activations(STUDENT, 1, torch.float32)
    teacher = {n: x * (silent == "student") for n, x in teacher.items()}
    student = {n: (x * (silent == "teacher")).requires_grad_() for n, x in student.items()}
    loss = value(objective, heads, teacher, student)
    loss.backward()
    gradients = [x.grad for x in [*student.values(), *heads.parameters()] if x.grad is not None]
    assert loss.isfinite() and all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("query", ["pooled", "frame"])
def test_a_pair_of_real_models_trains(tmp_path, query):
    objective = AttentionCompression(query=query, width=4)
    module = Distiller(teacher=make_teacher(), student=make_student(), metrics=["si_sdr"])
    before = [p.detach().clone() for p in module.student.parameters()]
    trainer = make_trainer(tmp_path, callbacks=[objective], max_steps=2)
    trainer.fit(module, ToyData(items=8))
    assert len(objective.bound_pairs) == 81
    assert any(not torch.equal(a, b) for a, b in zip(before, module.student.parameters(), strict=True))
    assert trainer.callback_metrics and trainer.global_step == 2


@pytest.mark.parametrize(
    ("bad", "named"),
    [({"guard": "none"}, "guard"), ({"distance": "l1"}, "distance"), ({"query": "item"}, "query"),
     ({"temperature": 0.0}, "temperature"), ({"width": 0}, "width"), ({"dimensions": 0}, "dimensions")],
)  # fmt: skip
def test_an_impossible_setting_is_named(bad, named):
    with pytest.raises(ValueError, match=named):
        AttentionCompression(**bad)


def test_layers_that_do_not_fit_the_heads_are_an_error():
    objective, heads = bound()
    teacher, student = [*activations(TEACHER, 0).values()], [*activations(STUDENT, 1).values()]
    with pytest.raises(ValueError, match="2 student to 2 teacher layers, not from 1 to 2"):
        objective.compare(teacher, student[:1], heads)
