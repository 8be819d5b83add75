"""Cosine alignment agrees with float64 loops, bridges every mismatch it says it does, and trains its heads."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from kdse.distiller import Distiller
from kdse.models.checkpoint import load_model
from kdse.models.unet import UNet
from kdse.objectives.base import Exchange
from kdse.objectives.cosine import CosineAlignment
from kdse.seeding import seeded
from kdse.taps import probe
from tests.toys import ToyData, make_trainer

SHAPES = [(2, 3, 4, 5), (2, 4, 4, 3)]
LATENT = ("bottleneck", "bottleneck")


def activations(seed: int, shapes=SHAPES) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def vectors_of(x: torch.Tensor, kind: str) -> list[list[tuple[int, int, int, int]]]:
    """Indices of each vector's entries."""
    b, c, t, f = (range(n) for n in x.shape)
    if kind == "frame":
        return [[(i, k, j, m) for k, m in product(c, f)] for i, j in product(b, t)]
    if kind == "channel":
        return [[(i, k, j, m) for j, m in product(t, f)] for i, k in product(b, c)]
    return [[(i, k, j, m) for k, j, m in product(c, t, f)] for i in b]


def loop_distance(a: torch.Tensor, b: torch.Tensor, kind: str, eps: float) -> float:
    total, vectors = 0.0, vectors_of(a, kind)
    for entries in vectors:
        dot = sum(float(a[e]) * float(b[e]) for e in entries)
        norms = math.sqrt(sum(float(a[e]) ** 2 for e in entries)) * math.sqrt(sum(float(b[e]) ** 2 for e in entries))
        total += 1 - dot / max(norms, eps)
    return total / len(vectors)


@pytest.mark.parametrize("kind", ["frame", "channel", "flattened"])
@pytest.mark.parametrize("eps", [1e-8, 5.0])
def test_the_distance_agrees_with_a_loop(kind, eps):
    teacher, student = activations(0), activations(1)
    expected = sum(loop_distance(a, b, kind, eps) for a, b in zip(teacher, student, strict=True)) / 2
    value = CosineAlignment(vectors=kind, eps=eps).compare(teacher, student)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ["frame", "channel", "flattened"])
def test_the_comparison_arm_is_the_mean_squared_difference(kind):
    teacher, student = activations(0), activations(1)
    total = 0.0
    for a, b in zip(teacher, student, strict=True):
        total += sum(float(a[e] - b[e]) ** 2 for e in product(*map(range, a.shape))) / a.numel() / 2
    value = CosineAlignment(vectors=kind, distance="mse").compare(teacher, student)
    assert value.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("kind", ["frame", "channel", "flattened"])
@pytest.mark.parametrize("distance", ["cosine", "mse"])
def test_gradients_agree_with_finite_differences(kind, distance):
    teacher, student = activations(0), [x.requires_grad_() for x in activations(1)]
    objective = CosineAlignment(vectors=kind, distance=distance)
    assert torch.autograd.gradcheck(lambda *s: objective.compare(teacher, list(s)), student)


@pytest.mark.parametrize("kind", ["frame", "channel", "flattened"])
def test_scale_is_free_and_sign_is_not(kind):
    """Each vector at a scale of its own costs nothing; opposite vectors cost 2, orthogonal ones 1."""
    (x,) = activations(0, SHAPES[:1])
    axis = {"frame": (2, 1, 4, 1), "channel": (2, 3, 1, 1), "flattened": (2, 1, 1, 1)}[kind]
    scale = torch.rand(axis, dtype=torch.float64) + 0.01
    objective = CosineAlignment(vectors=kind)
    assert objective.compare([x], [x * scale]).item() == pytest.approx(0.0, abs=1e-12)
    assert objective.compare([x], [-x * scale]).item() == pytest.approx(2.0, abs=1e-12)
    left, right = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    left[..., 0], right[..., 1] = 1.0, 1.0
    assert objective.compare([left], [right]).item() == 1.0


@pytest.mark.parametrize("kind", ["frame", "channel", "flattened"])
@pytest.mark.parametrize("silent", ["teacher", "student", "both"])
def test_a_zero_vector_costs_one_and_gives_no_gradient(kind, silent):
    (a,), (b,) = activations(0, SHAPES[:1]), activations(1, SHAPES[:1])
    a, b = a.float(), b.float()
    b = b * 0 if silent != "teacher" else b
    a = a * 0 if silent != "student" else a
    b.requires_grad_()
    value = CosineAlignment(vectors=kind).compare([a], [b])
    value.backward()
    assert value.item() == 1.0 and torch.all(b.grad == 0)


def test_one_silent_frame_leaves_the_gradient_of_the_others_alone():
    a, b = torch.randn(1, 3, 5, 4), torch.randn(1, 3, 5, 4)
    b[:, :, 2] = 0
    b.requires_grad_()
    CosineAlignment().compare([a], [b]).backward()
    rest = b.detach()[:, :, [0, 1, 3, 4]].requires_grad_()
    (CosineAlignment().compare([a[:, :, [0, 1, 3, 4]]], [rest]) * 4 / 5).backward()
    assert torch.all(b.grad[:, :, 2] == 0)
    torch.testing.assert_close(b.grad[:, :, [0, 1, 3, 4]], rest.grad)


def test_the_teacher_gets_no_gradient():
    teacher, student = [x.requires_grad_() for x in activations(0)], [x.requires_grad_() for x in activations(1)]
    CosineAlignment().compare(teacher, student).backward()
    assert all(x.grad is None for x in teacher) and all(x.grad is not None for x in student)


def bound(theirs: tuple[int, ...], own: tuple[int, ...], **arguments) -> tuple[CosineAlignment, torch.nn.ModuleDict]:
    objective = CosineAlignment(**arguments)
    objective.bound_pairs = [LATENT]
    with seeded("heads/test", seed=1):
        heads = objective.build_heads({"bottleneck": torch.Size(theirs)}, {"bottleneck": torch.Size(own)})
    return objective, torch.nn.ModuleDict() if heads is None else heads


def exchange(theirs: torch.Tensor, own: torch.Tensor, heads: torch.nn.ModuleDict) -> Exchange:
    taps = {"teacher_taps": {"bottleneck": theirs}, "student_taps": {"bottleneck": own}}
    return Exchange(noisy=torch.zeros(2, 8), student=None, heads=heads, **taps)


def test_a_head_on_features_is_expand_relu_project_of_every_frame():
    objective, heads = bound((1, 3, 4, 2), (1, 2, 4, 5), expansion=3)
    own = torch.randn(2, 2, 4, 5)
    expand, project = heads["pair0"].expand, heads["pair0"].project
    assert expand.weight.shape == (30, 10) and project.weight.shape == (6, 30)
    got = heads["pair0"](own)
    for b, t in product(range(2), range(4)):
        hidden = (expand.weight @ own[b, :, t].reshape(-1) + expand.bias).clamp_min(0)
        expected = (project.weight @ hidden + project.bias).reshape(3, 2)
        torch.testing.assert_close(got[b, :, t], expected, atol=1e-6, rtol=1e-5)
    theirs = torch.randn(2, 3, 4, 2)
    assert objective.loss(exchange(theirs, own, heads)).item() == pytest.approx(
        loop_distance(theirs.double(), got.detach().double(), "frame", 1e-8), rel=1e-5
    )


@pytest.mark.parametrize("head", ["inverted", "linear"])
def test_a_head_on_channels_is_the_same_at_every_frame_and_frequency(head):
    _, heads = bound((1, 3, 4, 5), (1, 2, 4, 5), head=head, head_over="channels", expansion=3)
    own = torch.randn(2, 2, 4, 5)
    got = heads["pair0"](own)
    assert got.shape == (2, 3, 4, 5)
    assert sum(p.numel() for p in heads.parameters()) == (9 if head == "linear" else 2 * 6 + 6 + 6 * 3 + 3)
    moved = heads["pair0"](own.roll((1, 2), (2, 3)))
    torch.testing.assert_close(moved, got.roll((1, 2), (2, 3)))


def test_a_linear_head_is_linear_and_can_undo_any_order_of_the_features():
    objective, heads = bound((1, 3, 4, 4), (1, 3, 4, 4), head="linear")
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    theirs = torch.randn(2, 3, 4, 4)
    own = theirs.transpose(1, 2).flatten(2)[..., order].unflatten(2, (3, 4)).transpose(1, 2)
    assert objective.loss(exchange(theirs, own, heads)).item() > 0.5
    with torch.no_grad():
        heads["pair0"].project.weight.zero_()[order, torch.arange(12)] = 3.0  # the scale is free
        heads["pair0"].project.bias.zero_()
    assert objective.loss(exchange(theirs, own, heads)).item() == pytest.approx(0.0, abs=1e-6)


def test_heads_are_the_same_whenever_they_are_built_under_one_seed():
    first, second = (bound((1, 3, 4, 5), (1, 2, 4, 5))[1].state_dict() for _ in range(2))
    torch.randn(7)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_a_head_the_activations_themselves_are_compared():
    objective, heads = bound((1, 3, 4, 5), (1, 3, 4, 5), head=None)
    (theirs,), (own,) = activations(0, SHAPES[:1]), activations(1, SHAPES[:1])
    assert len(heads) == 0
    assert objective.loss(exchange(theirs, own, heads)).item() == pytest.approx(
        loop_distance(theirs, own, "frame", 1e-8), rel=1e-12
    )


@pytest.mark.parametrize(
    ("arguments", "own", "axis"),
    [({"head": None}, (1, 2, 4, 5), "channels"), ({"head": None}, (1, 3, 4, 6), "frequencies"),
     ({"head_over": "channels"}, (1, 2, 4, 6), "frequencies"), ({}, (1, 2, 7, 6), "frames")],
    ids=str,
)  # fmt: skip
def test_what_nothing_bridges_is_named(arguments, own, axis):
    with pytest.raises(ValueError, match=rf"objectives.cosine_alignment.*'bottleneck'.*differ in {axis}"):
        bound((1, 3, 4, 5), own, **arguments)


def test_compare_never_broadcasts():
    with pytest.raises(ValueError, match="layer 0.*frames"):
        CosineAlignment().compare([torch.zeros(2, 3, 1, 4)], [torch.zeros(2, 3, 5, 4)])
    with pytest.raises(ValueError, match="1 teacher and 2 student"):
        CosineAlignment().compare([torch.zeros(2, 3, 1, 4)], [torch.zeros(2, 3, 1, 4)] * 2)


@pytest.mark.parametrize("vectors", ["frame", "channel", "flattened"])
def test_resampling_brings_the_teacher_to_the_students_frames_and_frequencies(vectors):
    """A teacher at twice the frames and frequencies, whose neighbours agree, is the student itself."""
    own = torch.randn(2, 3, 4, 5)
    theirs = own.repeat_interleave(2, 2).repeat_interleave(2, 3)
    axes = ["time", "frequency"]
    objective, heads = bound(theirs.shape, own.shape, head=None, resample=axes, vectors=vectors)
    assert objective.loss(exchange(theirs, own, heads)).item() == pytest.approx(0.0, abs=1e-6)
    objective, heads = bound(theirs.shape, own.shape, resample=["time"])
    assert heads["pair0"](own).shape == (2, 3, 4, 10)
    assert 0 < objective.loss(exchange(theirs, own, heads)).item() < 2


def test_autocast_changes_nothing():
    objective, heads = bound((1, 3, 4, 2), (1, 2, 4, 5))
    ready = exchange(torch.randn(2, 3, 4, 2), torch.randn(2, 2, 4, 5), heads)
    outside = objective.loss(ready)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = objective.loss(ready)
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)


MISMATCHES = [
    {"channels": [2, 3, 4]},
    {"channels": [4, 8]},
    {"channels": [4, 6, 8], "latent_channels": 3},
    {"channels": [4, 6, 8], "block_type": "separable"},
    {"channels": [4, 6, 8], "hop": 128},
]


@pytest.mark.parametrize("student", MISMATCHES, ids=["width", "depth", "latent", "block", "hop"])
@pytest.mark.parametrize("vectors", ["frame", "channel", "flattened"])
def test_every_mismatch_of_two_unets_is_bridged(student, vectors):
    teacher, own = UNet(channels=[4, 6, 8]).eval(), UNet(**student).train()
    axes = ["time"] if "hop" in student else []
    objective, heads = bound(
        probe(teacher, teacher.taps())["bottleneck"],
        probe(own, own.taps())["bottleneck"],
        resample=axes,
        vectors=vectors,
        expansion=1,
    )
    latents = []
    for model in (teacher, own):
        hook = model.get_submodule(model.taps()["bottleneck"].path).register_forward_hook(
            lambda module, inputs, output: latents.append(output)
        )
        model(torch.randn(2, 3000, generator=torch.Generator().manual_seed(2)))
        hook.remove()
    objective.loss(exchange(latents[0].detach(), latents[1], heads)).backward()
    trained = [*heads.parameters(), *own.encoder.parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    assert sum(float(p.grad.abs().sum()) for p in own.encoder.parameters()) > 0


def test_a_run_trains_the_heads_aligns_the_latents_and_exports_none_of_them(tmp_path):
    torch.manual_seed(0)
    objective = CosineAlignment()
    model = Distiller(
        teacher=lambda: UNet(channels=[4, 6, 8]),
        student=lambda: UNet(channels=[2, 4], block_type="plain"),
        metrics=["si_sdr"],
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
    )
    values: list[torch.Tensor] = []
    compare = objective.compare
    objective.compare = lambda *taps: values.append(value := compare(*taps)) or value
    trainer = make_trainer(tmp_path, [objective], max_steps=12)
    trainer.fit(model, ToyData())
    assert objective.bound_pairs == [LATENT] and values[-1] < 0.7 * values[0]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert [k for k in stored if k.startswith("heads.cosine_alignment.pair0.project")]
    exported = load_model(tmp_path / "a.ckpt")
    assert isinstance(exported, UNet)
    assert set(exported.state_dict()) == set(model.student.state_dict())


@pytest.mark.parametrize(
    "bad",
    [{"vectors": "bin"}, {"head": "conv"}, {"head_over": "time"}, {"expansion": 0}, {"distance": "l1"},
     {"resample": ["channel"]}, {"eps": 0.0}, {"weight": -1.0}, {"pairs": "middle"}],
    ids=str,
)  # fmt: skip
def test_an_impossible_setting_is_named(bad):
    with pytest.raises(ValueError, match="|".join(bad)):
        CosineAlignment(**bad)
