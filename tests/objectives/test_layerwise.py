"""Promises that every pairwise objective keeps: silence, precision, errors, DDP, and a training run on a real pair."""

from __future__ import annotations

import pytest
import torch

from kdse.distiller import Distiller
from kdse.objectives import base
from kdse.objectives.attention_transfer import AttentionTransfer
from kdse.objectives.correlation import CorrelationCongruence
from kdse.objectives.flow_of_solution import FlowOfSolution
from kdse.objectives.hint import Hint
from kdse.objectives.items import ItemRelations
from kdse.objectives.probabilistic import ProbabilisticTransfer
from kdse.objectives.relational import RelationalAngle, RelationalDistance
from kdse.objectives.variational import VariationalInformation
from tests.objectives.pairs import LAYERS, activations, bound
from tests.toys import ToyData, make_student, make_teacher, make_trainer

HEADED = [Hint, FlowOfSolution, VariationalInformation]
RELATIONS = [RelationalDistance, RelationalAngle, CorrelationCongruence, ProbabilisticTransfer]
ALL = [*HEADED, AttentionTransfer, *RELATIONS]
NOT_FLOWS = [kind for kind in ALL if kind is not FlowOfSolution]  # flows lie between pairs and average frames away
FSP_LAYERS = [(5, 2, 4), (4, 3, 4)]  # flows need two layers of equal T and F


def example(kind: type, dtype: torch.dtype = torch.float64):
    layers = FSP_LAYERS if kind is FlowOfSolution else LAYERS
    teacher = [x.to(dtype) for x in activations(0, 0, layers)]
    student = [x.to(dtype).requires_grad_() for x in activations(1, 1, layers)]
    return kind(), teacher, student


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("silent", ["both", "student", "teacher", "one item", "two equal items", "all items equal"])
def test_silence_and_identical_items_give_finite_values_and_gradients(kind, silent):
    objective, teacher, student = example(kind, torch.float32)
    with torch.no_grad():
        for x in [*([] if silent == "student" else teacher), *([] if silent == "teacher" else student)]:
            if silent == "two equal items":
                x[1] = x[0]
            elif silent == "all items equal":
                x[:] = x[0].clone()
            else:
                x[(slice(0, 1) if silent == "one item" else slice(None))] = 0
    exchange = bound(objective, teacher, student)
    exchange.heads.float()
    value = objective.loss(exchange)
    value.backward()
    assert value.isfinite()
    assert all(x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() < 1e6 for x in student)


@pytest.mark.parametrize("kind", ALL)
def test_a_slope_of_the_loss_agrees_with_finite_differences(kind):
    objective, teacher, student = example(kind)
    exchange = bound(objective, teacher, student)

    def value(*x):
        exchange.student_taps = {f"s{i}": y for i, y in enumerate(x)}
        return objective.loss(exchange)

    assert torch.autograd.gradcheck(value, student)


@pytest.mark.parametrize("kind", NOT_FLOWS)
def test_the_mean_does_not_depend_on_how_often_a_pair_is_listed_and_the_sum_adds_up(kind):
    objective, teacher, student = example(kind)
    exchange = bound(objective, teacher[:1], student[:1])
    once = objective.loss(exchange).item()
    summed = kind(reduction="sum")
    bound(summed, teacher[:1], student[:1])
    summed_once = summed.loss(exchange).item()
    if len(exchange.heads):
        exchange.heads["1"] = exchange.heads["0"]
    for each in (objective, summed):
        each.bound_pairs = [("t0", "s0")] * 2
    assert objective.loss(exchange).item() == pytest.approx(once)
    assert summed.loss(exchange).item() == pytest.approx(2 * summed_once)


@pytest.mark.parametrize("kind", ALL)
def test_autocast_changes_nothing(kind):
    objective, teacher, student = example(kind, torch.float32)
    exchange = bound(objective, teacher, student)
    exchange.heads.float()
    plain = objective.loss(exchange)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(objective.loss(exchange), plain)
    exchange.student_taps = {name: x.bfloat16() for name, x in exchange.student_taps.items()}
    assert objective.loss(exchange).dtype == torch.float32


@pytest.mark.parametrize("kind", NOT_FLOWS)
def test_frames_that_differ_are_an_error_with_both_taps_shapes_and_the_fix_before_training(kind):
    objective = kind(per="frame") if kind in RELATIONS else kind()
    teacher, student = activations(0, 0), [x[:, :, :-1] for x in activations(1, 1)]
    message = r"t0.*\[1, 5, 3, 4\].*s0.*\[1, 2, 2, 4\] differ in frames.*pairs"
    with pytest.raises(ValueError, match=message):
        bound(objective, teacher, student)


@pytest.mark.parametrize("kind", RELATIONS)
@pytest.mark.parametrize("per", ["item", "frame", "time"])
def test_a_batch_of_one_is_refused_unless_the_frames_of_an_item_are_compared(kind, per):
    objective, teacher, student = kind(per=per), activations(0, 0, batch=1), activations(1, 1, batch=1)
    if per == "time":
        assert objective.compare(teacher, student).item() > 0
        return
    with pytest.raises(ValueError, match=r'1 items in the batch.*at least [23].*per: "time"'):
        objective.compare(teacher, student)


@pytest.mark.parametrize("kind", RELATIONS)
@pytest.mark.parametrize("features", ["flat", "pooled"])
def test_groups_are_averaged_and_hold_what_their_docstring_says(kind, features):
    """Per frame and per time against one call a group on activations cut by hand."""
    teacher, student = activations(0, 0)[:1], activations(1, 1)[:1]

    def one(a: torch.Tensor, b: torch.Tensor) -> float:
        if features == "pooled":
            a, b = a.mean(3, keepdim=True), b.mean(3, keepdim=True)
        return kind(reduction="sum").compare([a], [b]).item()

    frames = [one(teacher[0][:, :, [t]], student[0][:, :, [t]]) for t in range(3)]
    clips = [one(teacher[0][b].transpose(0, 1)[:, :, None], student[0][b].transpose(0, 1)[:, :, None])
             for b in range(4)]  # fmt: skip
    per_frame = kind(per="frame", features=features, reduction="sum").compare(teacher, student).item()
    per_time = kind(per="time", features=features, reduction="sum").compare(teacher, student).item()
    assert per_frame == pytest.approx(sum(frames) / 3)
    assert per_time == pytest.approx(sum(clips) / 4)


@pytest.mark.parametrize("kind", RELATIONS)
def test_gathering_relates_the_global_batch(kind, monkeypatch):
    teacher, student = activations(0, 0, batch=8), activations(1, 1, batch=8)
    other = {x[:4].sum().item(): x[4:] for x in [*teacher, *student]}  # what the second process holds
    monkeypatch.setattr(base, "gather_batch", lambda x: torch.cat([x, other[x.sum().item()]]))

    def loss(**settings):
        objective = kind(**settings)
        return objective.loss(bound(objective, [x[:4] for x in teacher], [x[:4] for x in student])).item()

    alone = [x[:4] for x in teacher], [x[:4] for x in student]
    assert loss() == pytest.approx(kind().compare(teacher, student).item(), rel=1e-12)
    assert loss(gather=False) == pytest.approx(kind().compare(*alone).item(), rel=1e-12)
    assert loss(per="time") == pytest.approx(kind(per="time").compare(*alone).item(), rel=1e-12)


@pytest.mark.parametrize("kind", [AttentionTransfer, *RELATIONS])
def test_a_copy_costs_nothing_and_a_quieter_copy_neither(kind):
    teacher = activations(0, 0)
    for level in (1.0, 0.1):
        student = [(level * x).requires_grad_() for x in teacher]
        value = kind().compare(teacher, student)
        value.backward()
        assert value.item() == pytest.approx(0, abs=1e-15)


def test_all_of_them_train_a_narrower_student_together(tmp_path):
    objectives = [kind(pairs="encoder" if kind in RELATIONS else "all") for kind in ALL]
    model = Distiller(teacher=make_teacher, student=make_student, metrics=["si_sdr"])
    before = [p.detach().clone() for p in model.student.parameters()]
    trainer = make_trainer(tmp_path, objectives, max_steps=2)
    trainer.fit(model, ToyData())
    assert set(model.heads) == {"hint", "flow_of_solution", "variational_information"}
    # 9 taps; heads of flows only where the widths differ (the last decoder block has one channel in both, and no flow)
    assert [len(model.heads[name]) for name in model.heads] == [9, 8, 9]
    for parameter in model.heads.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.student.parameters(), strict=True))


@pytest.mark.parametrize(
    ("kind", "bad", "named"),
    [(Hint, {"reduction": "max"}, "reduction"), (AttentionTransfer, {"power": 0.5}, "power"),
     (AttentionTransfer, {"form": "l1"}, "form"), (FlowOfSolution, {"between": "all"}, "between"),
     (VariationalInformation, {"layers": 0}, "layers"),
     (VariationalInformation, {"minimum_variance": 9.0}, "minimum_variance"),
     (CorrelationCongruence, {"kernel": "poly"}, "kernel"), (CorrelationCongruence, {"gamma": 0.0}, "gamma"),
     (CorrelationCongruence, {"order": 0}, "order"), (ProbabilisticTransfer, {"per": "bin"}, "per"),
     (RelationalAngle, {"features": "max"}, "features"), (RelationalDistance, {"weight": -1.0}, "weight")],
)  # fmt: skip
def test_an_impossible_setting_is_named(kind, bad, named):
    with pytest.raises(ValueError, match=named):
        kind(**bad)


def test_every_relation_is_an_item_relation_that_the_log_can_state_the_batch_of():
    assert all(issubclass(kind, ItemRelations) and hasattr(kind(), "gather") for kind in RELATIONS)
