"""After I2S-TFCKD: both similarity streams against loops, sets, fusion, and the sizes baked into the heads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kdse.distiller import Distiller
from kdse.models.base import Tap
from kdse.objectives import base
from kdse.objectives.base import Exchange
from kdse.objectives.calibrated import TimeFrequencyCalibrated
from tests.toys import ToyData, make_student, make_teacher, make_trainer

B, T = 3, 4
TEACHER = {"e0": (3, T, 4), "e1": (4, T, 2), "m0": (4, T, 2), "m1": (4, T, 2), "d0": (3, T, 2), "d1": (1, T, 4)}
STUDENT = {"e0": (2, T, 4), "e1": (2, T, 2), "m0": (2, T, 2), "d0": (2, T, 2), "d1": (1, T, 4)}
GROUPS = {"e": "encoder", "m": "bottleneck", "d": "decoder"}


def taps(spec: dict) -> dict[str, Tap]:
    return {name: Tap(name, group=GROUPS[name[0]]) for name in spec}


def activations(spec: dict, seed: int, dtype=torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(B, *shape, dtype=dtype, generator=generator) for n, shape in spec.items()}


def bound(dtype=torch.float64, **settings) -> tuple[TimeFrequencyCalibrated, nn.ModuleDict]:
    objective = TimeFrequencyCalibrated(**{"batch_size": B, "frames": None, "mid_channels": 5, **settings})
    objective.bound_pairs = objective.resolve_pairs(taps(TEACHER), taps(STUDENT))
    shapes = [{n: torch.Size([1, *shape]) for n, shape in spec.items()} for spec in (TEACHER, STUDENT)]
    torch.manual_seed(0)
    return objective, objective.build_heads(*shapes).to(dtype)


def exchange(heads, teacher, student) -> Exchange:
    noisy = torch.zeros(len(next(iter(student.values()))), 8)
    return Exchange(noisy=noisy, student=None, teacher_taps=teacher, student_taps=student, heads=heads)


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def loop_affine(layer: nn.Linear, vector: list[float]) -> list[float]:
    return [b + dot(row, vector) for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]


def loop_embedding(perceptron: nn.Module, row: list[float]) -> list[float]:
    out = loop_affine(perceptron[2], [max(0.0, v) for v in loop_affine(perceptron[0], row)])
    return [v / math.sqrt(dot(out, out)) for v in out]


def loop_set(teacher: list, student: list, head: nn.Module, reduction: str, scale: bool) -> float:
    """Both streams of one set, entry by entry."""
    vectors = [  # [layer][b][t] -> the C F values of a frame
        [[[x[b, :, t].flatten().tolist() for t in range(T)] for b in range(B)] for x in side]
        for side in (teacher, student)
    ]

    def others(layer: list, stream: str, b: int, t: int) -> list[list[float]]:
        return layer[b] if stream == "time" else [item[t] for item in layer]

    def products(layer: list, stream: str, b: int, t: int) -> list[float]:
        own = layer[b][t]
        return [dot(own, other) / (len(own) if scale else 1) for other in others(layer, stream, b, t)]

    def probabilities(layer: list, stream: str, b: int, t: int) -> list[float]:
        own, row = layer[b][t], []
        for other in others(layer, stream, b, t):
            cosine = dot(own, other) / math.sqrt((dot(own, own) + 1e-8) * (dot(other, other) + 1e-8))
            row.append((cosine + 1) / 2)
        return [v / sum(row) for v in row]

    streams = []
    for stream in ("time", "batch"):
        keys, queries = head.get_submodule(f"{stream}_keys"), head.get_submodule(f"{stream}_queries")
        total = 0.0
        for i, s in enumerate(vectors[1]):
            for b in range(B):
                for t in range(T):
                    query = loop_embedding(queries[i], products(s, stream, b, t))
                    scores = [
                        math.exp(dot(query, loop_embedding(keys[j], products(layer, stream, b, t))))
                        for j, layer in enumerate(vectors[0])
                    ]
                    q = probabilities(s, stream, b, t)
                    for j, layer in enumerate(vectors[0]):
                        p = probabilities(layer, stream, b, t)
                        jeffreys = [(x - y) * (math.log(x) - math.log(y)) for x, y in zip(p, q, strict=True)]
                        divisor = B * len(jeffreys) if reduction == "sum" else B * T
                        total += scores[j] / sum(scores) * sum(jeffreys) / divisor
        streams.append(total / len(student))
    return sum(streams) / (1 if reduction == "sum" else 2)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("scale", [True, False])
def test_the_value_agrees_with_a_loop(reduction, scale):
    objective, heads = bound(reduction=reduction, scale_similarity=scale)
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    fused_t, fused_s, parts = [], [], []
    for index, initial in enumerate("emd"):
        a = [x for n, x in teacher.items() if n[0] == initial]
        b = [x for n, x in student.items() if n[0] == initial]
        a, b = (a[::-1], b[::-1]) if initial == "d" else (a, b)  # each ends beside the bottleneck
        parts.append(loop_set(a, b, heads[f"intra{index}"], reduction, scale))
        fused_t.append(heads[f"teacher_fusion{index}"](a, [x.shape[2:] for x in a])[-1])
        fused_s.append(heads[f"student_fusion{index}"](b, [x.shape[2:] for x in b])[-1])
    parts.append(loop_set(fused_t, fused_s, heads["inter"], reduction, scale))
    expected = sum(parts) / (1 if reduction == "sum" else len(parts))
    assert objective.loss(exchange(heads, teacher, student)).item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("stream", "columns"), [("time", T), ("batch", B)])
def test_weights_are_not_negative_and_add_up_to_one(stream, columns):
    _, heads = bound()
    layers = [torch.randn(B, T, columns, dtype=torch.float64) for _ in range(4)]
    weights = heads["intra0"](stream, layers[:2], layers[2:])
    assert weights.shape == (B, T, 2, 2) and torch.all(weights > 0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, T, 2, dtype=torch.float64))


def test_pairs_stay_within_their_set():
    objective, _ = bound()
    sets = {group: set(pairs) for group, pairs in objective.sets.items()}
    assert sets == {
        "encoder": {(t, s) for t in ("e0", "e1") for s in ("e0", "e1")},
        "bottleneck": {("m0", "m0"), ("m1", "m0")},
        "decoder": {(t, s) for t in ("d0", "d1") for s in ("d0", "d1")},
    }
    assert set(objective.bound_pairs) == set().union(*sets.values())


def test_named_pairs_select_taps_and_one_group_is_one_set():
    named = TimeFrequencyCalibrated(pairs=[["m1", "e0"], ["e1", "e1"], ["d0", "d1"]])
    named.resolve_pairs(taps(TEACHER), taps(STUDENT))
    assert named.sets == {
        "encoder": [("e1", "e0"), ("m1", "e0"), ("e1", "e1"), ("m1", "e1")],
        "decoder": [("d0", "d1")],
    }
    encoder = TimeFrequencyCalibrated(pairs="encoder")
    assert len(encoder.resolve_pairs(taps(TEACHER), taps(STUDENT))) == 4 and list(encoder.sets) == ["encoder"]


def test_a_group_that_one_model_lacks_is_named():
    student = {name: tap for name, tap in taps(STUDENT).items() if tap.group != "bottleneck"}
    with pytest.raises(ValueError, match="bottleneck"):
        TimeFrequencyCalibrated().resolve_pairs(taps(TEACHER), student)


def test_equal_layers_cost_nothing_whatever_their_scale_and_rotation():
    objective = TimeFrequencyCalibrated(batch_size=B, frames=None, inter_set=False, pairs=[["e0", "e0"]])
    objective.bound_pairs = objective.resolve_pairs(taps(TEACHER), taps(STUDENT))
    shape = {"e0": torch.Size([1, 3, T, 4])}
    heads = objective.build_heads(shape, shape).double()
    teacher = {"e0": activations(TEACHER, 0)["e0"]}
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    student = {"e0": 5 * torch.einsum("bctf,cd->bdtf", teacher["e0"], rotation)}
    assert objective.loss(exchange(heads, teacher, student)).item() == pytest.approx(0, abs=1e-15)


def test_gradients_reach_the_student_and_the_heads_only():
    objective, heads = bound()
    teacher = {n: x.requires_grad_() for n, x in activations(TEACHER, 0).items()}
    student = {n: x.requires_grad_() for n, x in activations(STUDENT, 1).items()}
    objective.loss(exchange(heads, teacher, student)).backward()
    assert all(x.grad is None for x in teacher.values())
    assert all(x.grad.abs().max() > 0 for x in student.values())
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert all(p.grad.abs().max() > 0 for p in heads["inter"].parameters())


def test_no_target_moves_towards_the_student():
    """With one set there is nothing to weigh, so the fusion of the teacher gets no gradient at all."""
    objective, heads = bound(pairs="encoder")
    objective.loss(exchange(heads, activations(TEACHER, 0), activations(STUDENT, 1))).backward()
    assert all(torch.all(p.grad == 0) for p in heads["teacher_fusion0"].parameters())
    assert any(p.grad.abs().max() > 0 for p in heads["student_fusion0"].parameters())


@pytest.mark.parametrize("silent", ["teacher", "student", "both"])
def test_silence_is_finite(silent):
    objective, heads = bound(dtype=torch.float32)
    teacher = {n: x * (silent == "student") for n, x in activations(TEACHER, 0, torch.float32).items()}
    student = {n: x * (silent == "teacher") for n, x in activations(STUDENT, 1, torch.float32).items()}
    student = {n: x.requires_grad_() for n, x in student.items()}
    loss = objective.loss(exchange(heads, teacher, student))
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in [*student.values(), *heads.parameters()])


def test_opposite_items_are_finite():
    objective, heads = bound()
    student = {n: x.clone() for n, x in activations(STUDENT, 1).items()}
    for x in student.values():
        x[1] = -x[0]
        x.requires_grad_()
    loss = objective.loss(exchange(heads, activations(TEACHER, 0), student))
    loss.backward()
    assert loss.isfinite() and all(x.grad.isfinite().all() for x in student.values())


def test_a_batch_of_another_size_names_the_flag():
    objective, heads = bound()
    teacher, student = ({n: x[:2] for n, x in activations(spec, 0).items()} for spec in (TEACHER, STUDENT))
    with pytest.raises(ValueError, match=r"3 items and this one has 2.*time_frequency_calibrated.batch_size=2"):
        objective.loss(exchange(heads, teacher, student))


def test_other_frame_counts_name_the_flag_or_are_averaged():
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    longer = [{n: x.repeat_interleave(3, dim=2) for n, x in side.items()} for side in (teacher, student)]
    objective, heads = bound()
    with pytest.raises(ValueError, match=r"4 frames and this batch has 12.*time_frequency_calibrated.frames"):
        objective.loss(exchange(heads, *longer))
    objective, heads = bound(frames=T)
    same = objective.loss(exchange(heads, teacher, student))
    torch.testing.assert_close(objective.loss(exchange(heads, *longer)), same)


def test_taps_at_different_rates_need_a_frame_count():
    objective = TimeFrequencyCalibrated(frames=None)
    objective.bound_pairs = objective.resolve_pairs(taps(TEACHER), taps(STUDENT))
    shapes = {n: torch.Size([1, c, t, f]) for n, (c, t, f) in TEACHER.items()}
    slower = {n: torch.Size([1, c, t // 2, f]) for n, (c, t, f) in STUDENT.items()}
    with pytest.raises(ValueError, match=r"\[2, 4\] frames.*time_frequency_calibrated.frames"):
        objective.build_heads(shapes, slower)


def test_gather_compares_the_global_batch(monkeypatch):
    """Two processes hold a part each; the loss is that of the whole batch."""
    objective, heads = bound()
    teacher, student = activations(TEACHER, 0), activations(STUDENT, 1)
    together = objective.loss(exchange(heads, teacher, student))
    parts = [{n: x[:1] for n, x in side.items()} for side in (teacher, student)]
    pairs = zip([*parts[0].values(), *parts[1].values()], [*teacher.values(), *student.values()], strict=True)
    whole = {id(part): x for part, x in pairs}
    monkeypatch.setattr(base, "gather_batch", lambda part: whole[id(part)])
    assert torch.equal(objective.loss(exchange(heads, *parts)), together)


def test_a_pair_of_real_models_trains(tmp_path):
    objective = TimeFrequencyCalibrated(batch_size=4, frames=6, mid_channels=4)
    module = Distiller(teacher=make_teacher(), student=make_student(), metrics=["si_sdr"])
    before = [p.detach().clone() for p in module.student.parameters()]
    trainer = make_trainer(tmp_path, callbacks=[objective], max_steps=2)
    trainer.fit(module, ToyData(items=8))
    assert trainer.global_step == 2 and set(objective.sets) == {"encoder", "bottleneck", "decoder"}
    assert any(not torch.equal(a, b) for a, b in zip(before, module.student.parameters(), strict=True))
    used = {id(p) for p in module.heads.parameters() if p.grad is not None}
    assert len(used) == len(list(module.heads.parameters()))


@pytest.mark.parametrize(
    ("bad", "named"),
    [({"batch_size": 1}, "batch_size"), ({"frames": 1}, "frames"), ({"factor": 0}, "factor"),
     ({"mid_channels": 0}, "mid_channels"), ({"reduction": "max"}, "reduction")],
)  # fmt: skip
def test_an_impossible_setting_is_named(bad, named):
    with pytest.raises(ValueError, match=named):
        TimeFrequencyCalibrated(**bad)
