"""Attention maps' KL divergence agrees with plain float64 loops written from the docstring's equations."""

from __future__ import annotations

import math

import pytest
import torch

from kdse.models.base import Tap
from kdse.objectives.attention_kl import AttentionKl
from kdse.objectives.base import Exchange

B = 2
LAYERS = [((5, 6, 4), (2, 3, 4)), ((3, 6, 2), (4, 3, 2))]  # (C, T, F) of teacher and student: frames 2 to 1
ATTENTIONS = ["frequency", "time_frequency", "self_similarity"]


def activations(seed: int, side: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, *layer[side], dtype=torch.float64, generator=generator).to(dtype) for layer in LAYERS]


def loop_map(x: list, attention: str, power: float, frames: int) -> list[list[float]]:
    """The rows of the map of one item x[c][t][f]."""
    channels, own, bins = range(len(x)), range(len(x[0])), range(len(x[0][0]))
    if attention == "self_similarity":
        return [[sum(x[c][t][f] * x[c][t][g] for c in channels for t in own) for g in bins] for f in bins]
    energy = [[sum(abs(x[c][t][f]) ** power for c in channels) for f in bins] for t in own]
    if attention == "frequency":
        return [[sum(energy[t][f] for t in own) / len(own) for f in bins]]
    share = len(own) // frames  # averages of whole runs of frames
    return [[sum(energy[share * t + i][f] for i in range(share)) / share for f in bins] for t in range(frames)]


def loop_distributions(rows: list[list[float]], together: bool, temperature: float) -> list[list[float]]:
    if together:
        rows = [[value for row in rows for value in row]]
    result = []
    for row in rows:
        norm = math.sqrt(sum(v * v for v in row))
        exponentials = [math.exp(v / norm / temperature) for v in row]
        result.append([e / sum(exponentials) for e in exponentials])
    return result


def loop_value(teacher: list, student: list, attention, power, temperature, direction, rows) -> list[float]:
    values = []
    for a, b in zip(teacher, student, strict=True):
        items = []
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            frames = len(y[0])
            p, q = (
                loop_distributions(loop_map(z, attention, power, frames), rows == "together", temperature)
                for z in (x, y)
            )
            if direction == "student_teacher":
                p, q = q, p
            divergences = [
                sum(u * math.log(u / v) for u, v in zip(r, s, strict=True)) for r, s in zip(p, q, strict=True)
            ]
            items.append(sum(divergences) / len(divergences))
        values.append(sum(items) / B)
    return values


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("rows", ["each", "together"])
@pytest.mark.parametrize(
    ("power", "temperature", "direction"),
    [(2.0, 1.0, "teacher_student"), (1.0, 0.3, "student_teacher"), (3.0, 2.0, "teacher_student")],
)
def test_it_agrees_with_a_loop(attention, rows, power, temperature, direction):
    teacher, student = activations(0, 0), activations(1, 1)
    values = loop_value(teacher, student, attention, power, temperature, direction, rows)
    settings = {"attention": attention, "power": power, "temperature": temperature, "direction": direction}
    mean = AttentionKl(**settings, rows=rows).compare(teacher, student).item()
    scaled = AttentionKl(**settings, rows=rows, reduction="sum", scale_by_temperature=True).compare(teacher, student)
    assert mean == pytest.approx(sum(values) / 2, rel=1e-9) and mean > 0
    assert scaled.item() == pytest.approx(sum(values) * temperature**2, rel=1e-9)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_gradients_agree_with_finite_differences(attention, direction, temperature):
    teacher, student = activations(0, 0), [x.requires_grad_() for x in activations(1, 1)]
    objective = AttentionKl(attention=attention, direction=direction, temperature=temperature)
    assert torch.autograd.gradcheck(lambda *s: objective.compare(teacher, list(s)), student)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_equal_networks_cost_nothing_whatever_their_scale(attention):
    teacher = activations(0, 0)
    student = [(3 * x).requires_grad_() for x in teacher]
    value = AttentionKl(attention=attention).compare(teacher, student)
    value.backward()
    assert value.item() == pytest.approx(0.0, abs=1e-15)
    assert all(x.grad.abs().max() < 1e-12 for x in student)


@pytest.mark.parametrize("attention", ["frequency", "self_similarity"])
def test_order_and_number_of_channels_and_frames_do_not_matter(attention):
    teacher = activations(0, 0)
    student = [x.flip(1).repeat(1, 2, 3, 1) for x in teacher]
    assert AttentionKl(attention=attention).compare(teacher, student).item() == pytest.approx(0.0, abs=1e-15)


def test_frames_of_a_slower_teacher_are_interpolated():
    """Twice the hop, energy that grows linearly in time: away from the ends the student's frames lie between."""
    ramp = torch.linspace(1, 2, 8, dtype=torch.float64)
    fine = torch.stack([ramp, torch.ones(8, dtype=torch.float64)], dim=-1).sqrt()[None, None]
    coarse = fine.square().unflatten(2, (4, 2)).mean(3).sqrt()
    objective = AttentionKl(attention="time_frequency")
    inside = objective._distribution(coarse, 8)[:, 1:-1] - objective._distribution(fine, 8)[:, 1:-1]
    assert inside.abs().max() < 1e-12
    assert objective.compare([coarse], [fine]).item() < 1e-3


def test_a_nearly_equal_pair_keeps_its_digits_in_float32():
    """A divergence of 1e-9: the textbook sum would lose it in the rounding of the softmax."""
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(2, 8, 50, 128, dtype=torch.float64, generator=generator)
    student = teacher + 1e-2 * torch.randn(teacher.shape, dtype=torch.float64, generator=generator)
    exact = AttentionKl().compare([teacher], [student]).item()
    single = AttentionKl().compare([teacher.float()], [student.float()]).item()
    assert 0 < exact < 1e-8 and single == pytest.approx(exact, rel=1e-2)


@pytest.mark.parametrize("temperature", [1.0, 0.001])
def test_opposite_attention_is_finite_at_any_temperature(temperature):
    teacher, student = torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3)
    teacher[..., 0], student[..., 2] = 1.0, 1.0
    student.requires_grad_()
    value = AttentionKl(temperature=temperature).compare([teacher], [student])
    value.backward()
    shares = [math.exp(v / temperature - 1 / temperature) for v in (1, 0, 0)]
    expected = (shares[0] - shares[2]) / sum(shares) / temperature  # p_f log(p_f / q_f) summed over the two that swap
    assert value.item() == pytest.approx(expected, rel=1e-4) and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("silent", ["teacher", "student", "both"])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_silence_gives_a_finite_value_and_gradient(attention, silent, power):
    teacher, student = activations(0, 0, torch.float32), activations(1, 1, torch.float32)
    teacher = [x * (silent == "student") for x in teacher]
    student = [(x * (silent == "teacher")).requires_grad_() for x in student]
    value = AttentionKl(attention=attention, power=power).compare(teacher, student)
    value.backward()
    assert torch.isfinite(value) and all(torch.isfinite(x.grad).all() for x in student)
    assert (value.item() == 0) == (silent == "both")


def test_the_teacher_gets_no_gradient_and_autocast_changes_nothing():
    teacher = [x.requires_grad_() for x in activations(0, 0, torch.float32)]
    student = [x.requires_grad_() for x in activations(1, 1, torch.float32)]
    objective = AttentionKl(attention="self_similarity")
    exact = objective.compare(teacher, student)
    exact.backward()
    assert all(x.grad is None for x in teacher) and all(x.grad.abs().sum() > 0 for x in student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(objective.compare(teacher, student), exact)


def unet(blocks: int, prefix: str = "", decoders: int | None = None) -> dict[str, Tap]:
    taps = {f"{prefix}encoder{i}": Tap("x", group="encoder") for i in range(blocks)}
    taps[f"{prefix}bottleneck"] = Tap("x", group="bottleneck")
    return taps | {f"{prefix}decoder{i}": Tap("x", group="decoder") for i in range(decoders or blocks)}


def test_by_default_blocks_are_paired_by_index_and_the_bottleneck_is_left_out():
    pairs = AttentionKl().resolve_pairs(unet(2), unet(2, "own_"))
    names = ["encoder0", "encoder1", "decoder0", "decoder1"]
    assert pairs == [(name, f"own_{name}") for name in names]


def test_other_pairs_work_as_in_every_objective():
    assert ("bottleneck", "bottleneck") in AttentionKl(pairs="all").resolve_pairs(unet(2), unet(2))
    assert AttentionKl(pairs=[["encoder1", "decoder0"]]).resolve_pairs(unet(2), unet(2)) == [("encoder1", "decoder0")]


def test_blocks_that_cannot_be_paired_by_index_are_named_group_by_group():
    """Equally many in total is not enough."""
    with pytest.raises(ValueError, match=r"attention_kl.*encoder.*3 taps.*name the pairs"):
        AttentionKl().resolve_pairs(unet(3, decoders=2), unet(2, "own_", decoders=3))
    with pytest.raises(ValueError, match="student declares no such taps"):
        AttentionKl().resolve_pairs(unet(2), {"layer": Tap("x")})


def test_the_loss_compares_the_bound_pairs():
    teacher, student = activations(0, 0), activations(1, 1)
    objective = AttentionKl()
    objective.bound_pairs = [("a", "x"), ("b", "y")]
    exchange = Exchange(
        noisy=torch.zeros(B, 1),
        student=None,
        teacher_taps={"b": teacher[1], "a": teacher[0]},
        student_taps={"x": student[0], "y": student[1]},
    )
    assert torch.equal(objective.loss(exchange), objective.compare(teacher, student))


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_frequencies_that_differ_are_named_with_both_taps(attention):
    objective = AttentionKl(attention=attention)
    objective.bound_pairs = [("encoder0", "own0")]
    with pytest.raises(ValueError, match=r"attention_kl.*'encoder0'.*\[2, 3, 6, 4\].*'own0'.*frequencies"):
        objective.compare([torch.ones(2, 3, 6, 4)], [torch.ones(2, 3, 6, 8)])
    with pytest.raises(ValueError, match="batch"):
        objective.compare([torch.ones(2, 3, 6, 4)], [torch.ones(1, 3, 6, 4)])


@pytest.mark.parametrize(
    ("bad", "named"),
    [({"attention": "channel"}, "attention"), ({"direction": "both"}, "direction"), ({"rows": "no"}, "rows"),
     ({"reduction": "max"}, "reduction"), ({"power": 0.5}, "power"), ({"temperature": 0.0}, "temperature"),
     ({"pairs": "middle"}, "pairs"), ({"weight": -1.0}, "weight")],
)  # fmt: skip
def test_an_impossible_setting_is_named(bad, named):
    with pytest.raises(ValueError, match=named):
        AttentionKl(**bad)


def test_a_distil_dccrn_learns_from_a_teacher_with_another_hop():
    """Through real taps of models whose frames differ in number: the gradient reaches the whole student."""
    from kdse.models.dccrn import Dccrn
    from kdse.taps import TapRecorder

    teacher = Dccrn(channels=[4, 6], lstm_units=4, n_fft=512, hop=160)
    student = Dccrn(channels=[2, 4], lstm_units=3, n_fft=512)
    noisy = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    for attention in ATTENTIONS:
        objective = AttentionKl(attention=attention)
        objective.bound_pairs = objective.resolve_pairs(teacher.taps(), student.taps())
        records = []
        for model in (teacher, student):
            with TapRecorder(model, model.taps()) as recorder:
                model(noisy)
            records.append(recorder.activations())
        exchange = Exchange(noisy=noisy, student=None, teacher_taps=records[0], student_taps=records[1])
        student.zero_grad()
        objective.loss(exchange).backward()
        assert len(objective.bound_pairs) == 4
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())
        assert all(p.grad is None for p in teacher.parameters())
