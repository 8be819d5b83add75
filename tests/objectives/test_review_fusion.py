"""Review fusion: the recursion agrees with loops, chains run from low to high resolution, heads fit any clip."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from kdse import Distiller
from kdse.models.base import Tap
from kdse.objectives.cross_layer import CrossLayerSimilarity
from kdse.objectives.jeffreys import FrameWeightedJeffreys
from kdse.objectives.review import KnowledgeReview
from kdse.objectives.review_fusion import FusionBlock, ReviewFusion, ReviewObjective
from tests.objectives.levels import STUDENT_CHANNELS, TAPS, TEACHER_CHANNELS, activations, bind, exchange
from tests.toys import ToyData, make_student, make_teacher, make_trainer

OBJECTIVES = [KnowledgeReview, CrossLayerSimilarity, FrameWeightedJeffreys]


def loop_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution with zero padding that keeps the axes, one output value at a time."""
    (batch, _, frames, bins), (out, _, kt, kf) = x.shape, weight.shape
    y = torch.zeros(batch, out, frames, bins, dtype=x.dtype)
    for b, o, t, f in product(range(batch), range(out), range(frames), range(bins)):
        total = 0.0 if bias is None else float(bias[o])
        for i, j in product(range(kt), range(kf)):
            at, af = t + i - kt // 2, f + j - kf // 2
            if 0 <= at < frames and 0 <= af < bins:
                total += float(x[b, :, at, af] @ weight[o, :, i, j])
        y[b, o, t, f] = total
    return y


def loop_norm(x: Tensor, module: torch.nn.Module, kind: str) -> Tensor:
    scale = module if kind == "batch" else module[0]
    y = torch.zeros_like(x)
    for b, c in product(range(x.shape[0]), range(x.shape[1])):
        values = x[:, c] if kind == "batch" else x[b, c]
        deviation = (((values - values.mean()) ** 2).mean() + 1e-5).sqrt()
        y[b, c] = (x[b, c] - values.mean()) / deviation * scale.weight[c] + scale.bias[c]
    return y if kind == "batch" else torch.where(y > 0, y, module[1].weight * y)


def loop_nearest(x: Tensor, frames: int, bins: int) -> Tensor:
    y = torch.zeros(*x.shape[:2], frames, bins, dtype=x.dtype)
    for t, f in product(range(frames), range(bins)):
        y[:, :, t, f] = x[:, :, t * x.shape[2] // frames, f * x.shape[3] // bins]
    return y


def loop_fusion(fusion: ReviewFusion, student: list[Tensor], sizes: list[tuple[int, int]], kind: str) -> list[Tensor]:
    carried, outputs = None, []
    for block, level, size in zip(fusion.blocks, student, sizes, strict=True):
        x = loop_norm(loop_conv(level, block.enter.weight), block.enter_norm, kind)
        if carried is not None:
            y = loop_nearest(carried, *x.shape[2:])
            z = 1 / (1 + torch.exp(-loop_conv(torch.cat([x, y], 1), block.attention.weight, block.attention.bias)))
            x = x * z[:, 0].unsqueeze(1) + y * z[:, 1].unsqueeze(1)
        carried = loop_nearest(x, *size)
        outputs.append(loop_norm(loop_conv(carried, block.leave.weight), block.leave_norm, kind))
    return outputs


@pytest.mark.parametrize("kind", ["batch", "instance"])
def test_the_recursion_agrees_with_loops_also_where_the_teacher_has_other_axes(kind):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 3, 2), (2, 2, 4, 4), (2, 1, 4, 5)]
    student = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    sizes = [(3, 2), (5, 3), (4, 6)]
    fusion = ReviewFusion([3, 2, 1], [4, 2, 3], mid_channels=3, norm=kind).double()
    with torch.no_grad():
        for parameter in fusion.parameters():  # gains of one and biases of zero would hide what they do
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
        outputs = fusion(student, sizes)
        for output, expected in zip(outputs, loop_fusion(fusion, student, sizes, kind), strict=True):
            torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)


def test_a_level_hears_deeper_levels_and_never_shallower_ones():
    fusion = ReviewFusion([3, 2, 2], [3, 3, 3], norm="instance")
    student = [torch.randn(1, c, 4, 4, requires_grad=True) for c in (3, 2, 2)]
    for level, output in enumerate(fusion(student, [(4, 4)] * 3)):
        grads = torch.autograd.grad(output.square().sum(), student, retain_graph=True, allow_unused=True)
        assert [g is not None and bool(g.abs().max() > 0) for g in grads] == [i <= level for i in range(3)]


def test_the_carried_width_is_the_deepest_levels_and_at_most_512():
    assert ReviewFusion([24, 8], [4, 4]).blocks[1].enter.out_channels == 24
    assert ReviewFusion([600, 8], [4, 4]).blocks[1].enter.out_channels == 512
    assert ReviewFusion([24, 8], [4, 4], mid_channels=5).blocks[1].enter.out_channels == 5


def students(objective: ReviewObjective) -> dict[str, list[str]]:
    return {name: [objective.bound_pairs[i][1] for i in chain] for name, chain in objective.chains.items()}


def test_each_group_is_a_chain_from_low_to_high_resolution():
    objective = KnowledgeReview()
    bind(objective)
    assert list(students(objective).values()) == [["encoder1", "encoder0"], ["gru"], ["decoder0", "decoder1"]]
    assert objective.bound_pairs == [(name, name) for name in TAPS]


def test_the_order_of_an_explicit_list_does_not_matter():
    names = ["decoder1", "encoder0", "decoder0", "encoder1"]
    listed = KnowledgeReview(pairs=[[name, name] for name in names])
    bind(listed)
    assert sorted(students(listed).values()) == [["decoder0", "decoder1"], ["encoder1", "encoder0"]]
    assert [pair[1] for pair in listed.bound_pairs] == names


def test_a_student_tap_may_follow_several_teacher_taps():
    objective = FrameWeightedJeffreys(pairs=[["encoder0", "gru"], ["gru", "gru"], ["encoder1", "gru"]], mid_channels=4)
    heads = bind(objective)
    (chain,) = objective.chains.values()
    assert [objective.bound_pairs[i][0] for i in chain] == ["gru", "encoder1", "encoder0"]
    value = objective.loss(exchange(activations(TEACHER_CHANNELS, 0), activations(STUDENT_CHANNELS, 1), heads))
    assert value > 0


def test_taps_without_a_group_or_with_a_dotted_one_form_chains_too():
    taps = {"net.0": Tap("net.0"), "net.1": Tap("net.1"), "deep": Tap("deep", group="my.own")}
    objective = KnowledgeReview()
    objective.bound_pairs = objective.resolve_pairs(taps, taps)
    assert list(students(objective).values()) == [["net.1", "net.0"], ["deep"]]
    heads = objective.build_heads(*[{n: torch.Size([1, 2, 9, 3]) for n in taps}] * 2)
    assert heads is not None and len(heads) == 2


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_heads_built_for_one_long_clip_fit_other_batches_lengths_and_hops(kind):
    objective = kind(pairs=[[n, n] for n in TAPS if n != "gru"])
    heads = bind(objective, frames=126, teacher_frames=252)
    for batch, frames in ((2, 5), (4, 1)):
        teacher = activations(TEACHER_CHANNELS, 0, batch, 2 * frames)
        value = objective.loss(exchange(teacher, activations(STUDENT_CHANNELS, 1, batch, frames), heads))
        assert torch.isfinite(value) and value > 0


def test_fusion_runs_in_float32_under_autocast():
    objective = KnowledgeReview()
    heads = bind(objective).float()
    teacher = {n: x.float() for n, x in activations(TEACHER_CHANNELS, 0).items()}
    student = {n: x.float() for n, x in activations(STUDENT_CHANNELS, 1).items()}
    plain = objective.loss(exchange(teacher, student, heads))
    exact = [activations(TEACHER_CHANNELS, 0), activations(STUDENT_CHANNELS, 1), bind(objective)]
    assert plain.item() == pytest.approx(objective.loss(exchange(*exact)).item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = objective.loss(exchange(teacher, student, heads))
    assert cast.dtype == torch.float32 and cast.item() == plain.item()


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_distiller_trains_student_and_heads(kind, tmp_path):
    objective = kind(mid_channels=4)
    distiller = Distiller(teacher=make_teacher(), student=make_student(), optimizer=lambda p: torch.optim.Adam(p, 1e-3))
    before = {name: p.detach().clone() for name, p in distiller.student.named_parameters()}
    make_trainer(tmp_path, [objective], max_steps=1).fit(distiller, ToyData(items=4, batch_size=2))
    heads = dict(distiller.heads[objective.name].named_parameters())
    assert heads and all(p.grad is not None and torch.isfinite(p.grad).all() for p in heads.values())
    assert any(not torch.equal(p, before[name]) for name, p in distiller.student.named_parameters())
    assert all(p.grad is None for p in distiller.teacher.parameters())


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize(
    ("bad", "named"),
    [({"norm": "layer"}, "norm"), ({"mid_channels": 0}, "mid_channels"), ({"reduction": "max"}, "reduction")],
)
def test_an_impossible_setting_is_named(kind, bad, named):
    with pytest.raises(ValueError, match=named):
        kind(**bad)


def test_the_first_level_of_a_chain_has_no_attention_to_leave_untrained():
    assert FusionBlock(2, 3, 4, fuse=False, norm="batch").attention is None
