"""Multi-view attention transfer agrees with float64 loops, pairs views by name and needs no parameters."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

from kdse import Distiller
from kdse.models.base import Estimate, Tap
from kdse.models.manner import Manner
from kdse.objectives.base import Exchange
from kdse.objectives.multi_view import MultiViewAttention
from kdse.schedule import TwoStep
from tests.toys import ToyData, make_trainer

VIEWS = ["channel", "channel", "global", "local", "local"]
SHAPES = [((2, 6, 7, 1), (2, 3, 7, 1)), ((2, 4, 3, 2), (2, 4, 3, 2))]
SIZES: dict[str, Any] = {"depth": 2, "chunk": 64}


def activations(side: int, frames: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(side)
    shapes = [list(SHAPES[index % 2][side]) for index in range(len(VIEWS))]
    for shape in shapes:
        shape[2] += frames
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def loop_map(x: torch.Tensor, item: int, power: float, frames: int) -> list[float]:
    """Normalised energies of one item, entry by entry."""
    energies = []
    for t in range(frames):
        for f in range(x.shape[3]):
            energies.append(sum(abs(float(x[item, c, t, f])) ** power for c in range(x.shape[1])) / x.shape[1])
    norm = math.sqrt(sum(e**2 for e in energies))
    return [e / norm for e in energies]


def loop_distance(teacher: torch.Tensor, student: torch.Tensor, power: float, norm: str) -> float:
    frames, total = min(teacher.shape[2], student.shape[2]), 0.0
    for item in range(len(teacher)):
        a, b = (loop_map(x, item, power, frames) for x in (teacher, student))
        squared = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        total += squared if norm == "squared" else math.sqrt(squared)
    return total / len(teacher)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("norm", ["zagoruyko", "squared"])
@pytest.mark.parametrize("power", [1.0, 2.0, 2.5])
def test_the_value_agrees_with_a_loop(power, norm, reduction):
    weights = {"channel": 0.5, "global": 2.0, "local": 3.0}
    expected = 0.0
    for view, weight in weights.items():
        gaps = [loop_distance(a, b, power, norm) for a, b, v in zip(*both(), VIEWS, strict=True) if v == view]
        expected += weight * sum(gaps) / (len(gaps) if reduction == "mean" else 1)
    objective = MultiViewAttention(weights, power=power, norm=norm, reduction=reduction)
    assert objective.compare(*both(), VIEWS).item() == pytest.approx(expected, rel=1e-10)


def both() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return activations(0), activations(1)


@pytest.mark.parametrize("longer", ["teacher", "student"])
def test_frames_that_only_padding_added_are_cropped(longer):
    teacher = [torch.randn(2, 6, 41 if longer == "teacher" else 40, 1, dtype=torch.float64)]
    student = [torch.randn(2, 3, 41 if longer == "student" else 40, 1, dtype=torch.float64)]
    value = MultiViewAttention().compare(teacher, student, ["global"])
    assert value.item() == pytest.approx(loop_distance(teacher[0], student[0], 2, "zagoruyko"), rel=1e-10)


def test_other_lengths_are_compared_only_when_asked():
    """A map that is the same at half the rate costs nothing once both are on the coarser grid."""
    teacher = [torch.rand(2, 6, 20, 1, dtype=torch.float64)]
    student = [teacher[0].square().mean(1, keepdim=True).reshape(2, 1, 10, 2, 1).mean(3).sqrt()]
    assert MultiViewAttention(lengths="resample").compare(teacher, student, ["local"]).item() < 1e-7
    with pytest.raises(ValueError, match=r"more than padding explains.*lengths=resample"):
        MultiViewAttention().compare(teacher, student, ["local"])
    with pytest.raises(ValueError, match="frames"):
        MultiViewAttention(lengths="equal").compare([x[:, :, :19] for x in teacher], teacher, ["local"])
    with pytest.raises(ValueError, match="frequencies"):
        MultiViewAttention().compare(teacher, [x.expand(-1, -1, -1, 3) for x in teacher], ["local"])


def test_the_maps_ignore_width_and_level():
    """Repeated channels and any gain per item leave every map as it is."""
    teacher = activations(0)
    gain = torch.tensor([0.01, 50.0], dtype=torch.float64)[:, None, None, None]
    student = [gain * torch.cat([x, -x], dim=1) for x in teacher]
    assert MultiViewAttention().compare(teacher, student, VIEWS).item() < 1e-7


@pytest.mark.parametrize("norm", ["zagoruyko", "squared"])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("silent", ["teacher", "student", "both", "neither, and equal"])
def test_silence_and_equality_give_a_finite_loss_and_gradient(silent, norm, power):
    teacher, student = torch.randn(2, 6, 9, 1), torch.randn(2, 3, 9, 1)
    if silent in ("teacher", "both"):
        teacher = torch.zeros_like(teacher)
    if silent in ("student", "both"):
        student = torch.zeros_like(student)
    if silent == "neither, and equal":
        student = teacher.clone()
    student.requires_grad_()
    loss = MultiViewAttention(norm=norm, power=power).compare([teacher], [student], ["global"])
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()
    assert loss.item() == pytest.approx(0.0 if silent in ("both", "neither, and equal") else loss.item(), abs=1e-6)


def test_low_precision_activations_are_compared_in_float32():
    teacher, student = ([x.bfloat16() for x in side] for side in both())
    objective = MultiViewAttention()
    with torch.autocast("cpu", torch.bfloat16):
        value = objective.compare(teacher, student, VIEWS)
    expected = objective.compare([x.double() for x in teacher], [x.double() for x in student], VIEWS)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_views_are_paired_by_name_and_a_view_without_weight_is_left_out():
    teacher, student = Manner(12, **SIZES).taps(), Manner(6, **SIZES, attention="deepest").taps()
    objective = MultiViewAttention({"global": 0.0})
    pairs = objective.resolve_pairs(teacher, student)
    blocks = ["encoder1", "decoder0"]  # the deepest two, which both have
    assert pairs == [(f"{b}_{v}", f"{b}_{v}") for b in blocks for v in ("channel", "local")]
    assert objective.bound_views == ["channel", "local"] * 2
    assert len(MultiViewAttention(pairs="decoder").resolve_pairs(teacher, teacher)) == 6


def test_any_two_models_are_compared_by_named_pairs():
    teacher, student = {"a": Tap("x"), "b": Tap("y")}, {"c": Tap("z")}
    objective = MultiViewAttention(views={"time": [["a", "c"], ["b", "c"]], "rest": [["b", "c"]]})
    objective.bound_pairs = objective.resolve_pairs(teacher, student)
    assert objective.bound_pairs == [("a", "c"), ("b", "c"), ("b", "c")]
    assert objective.bound_views == ["time", "time", "rest"]
    x = {name: torch.randn(2, c, 9, 1, dtype=torch.float64) for name, c in (("a", 5), ("b", 3), ("c", 2))}
    exchange = Exchange(torch.zeros(2, 1), Estimate(torch.zeros(2, 1)), teacher_taps=x, student_taps=x)
    ac, bc = (loop_distance(x[name], x["c"], 2, "zagoruyko") for name in "ab")
    assert objective.loss(exchange).item() == pytest.approx((ac + bc) / 2 + bc, rel=1e-10)


def test_models_without_common_views_are_refused():
    block = Tap("block", group="encoder")
    with pytest.raises(ValueError, match=r"no pair of taps for the views .*name pairs in"):
        MultiViewAttention().resolve_pairs({"encoder0": block}, {"encoder0": block})
    with pytest.raises(ValueError, match=r"\['global', 'local'\]"):
        MultiViewAttention().resolve_pairs({"encoder0_channel": block}, {"encoder0_channel": block})


def test_models_of_other_depth_share_their_encoder_and_are_told_about_the_decoder():
    teacher, student = Manner(6, **SIZES), Manner(3, **{**SIZES, "depth": 3})
    arguments = {"teacher": teacher, "student": student}
    Distiller(**arguments).bind_objective(MultiViewAttention(pairs="encoder"))
    with pytest.raises(ValueError, match=r"'decoder0_channel'.*'decoder0_channel'.*views"):
        Distiller(**arguments).bind_objective(MultiViewAttention())


class Watched(MultiViewAttention):
    """Keeps its values."""

    def loss(self, exchange):
        value = super().loss(exchange)
        self.values = [*getattr(self, "values", []), value.item()]
        return value


def test_training_a_narrow_student_lowers_the_distance_and_adds_no_parameters(tmp_path):
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=3e-3)
    model = Distiller(teacher=Manner(12, **SIZES), student=Manner(3, **SIZES), optimizer=adam)
    objective = Watched()
    make_trainer(tmp_path, [objective, TwoStep(distil_steps=20)], max_steps=20).fit(model, ToyData())
    assert len(model.heads) == 0 and len(objective.bound_pairs) == 12
    assert sum(objective.values[-5:]) < 0.8 * sum(objective.values[:5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l1"}, "norm='l1'"),
        ({"power": 0.5}, "power=0.5"),
        ({"eps": 0.0}, "eps=0.0"),
        ({"lengths": "pad"}, "lengths='pad'"),
        ({"view_weights": {"phase": 1.0}}, "phase"),
        ({"view_weights": {"local": -1.0}}, "view_weights"),
        ({"view_weights": {"channel": 0.0, "global": 0.0, "local": 0.0}}, "view_weights"),
        ({"views": {"a": []}}, "views"),
        ({"views": {"a": [["x", "y"]]}, "pairs": "encoder"}, "pairs='encoder'"),
        ({"pairs": [["x", "y"]]}, "name the pairs in views"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiViewAttention(**arguments).resolve_pairs({"x": Tap("x")}, {"y": Tap("y")})


def test_lists_that_do_not_match_are_refused():
    teacher, student = both()
    with pytest.raises(ValueError, match="one view a pair"):
        MultiViewAttention().compare(teacher, student, VIEWS[:2])
    with pytest.raises(ValueError, match="unknown view 'phase'"):
        MultiViewAttention().compare(teacher[:1], student[:1], ["phase"])
