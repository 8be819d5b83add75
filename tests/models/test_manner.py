"""MANNER has the published sizes and costs, its layers follow their definitions, and any length goes through."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from kdse.deploy.cost import count_macs
from kdse.models.budget import count_parameters, find_widths
from kdse.models.manner import Manner
from kdse.models.manner_layers import (
    ChannelAttention,
    GlobalAttention,
    LocalAttention,
    MultiViewBlock,
    ResidualConformer,
    cut,
    join,
)
from kdse.taps import TapRecorder, probe

TINY: dict[str, Any] = {"hidden": 6, "depth": 2, "chunk": 8}

EXACT = [
    ({}, 24_068_671),
    ({"attention": "deepest"}, 21_253_921),
    ({"hidden": 120}, 95_498_941),
    ({"hidden": 15, "attention": "deepest"}, 1_389_631),
]
TO_A_THOUSAND = [
    ({"hidden": 48}, 15.482),
    ({"hidden": 21}, 3.107),
    ({"hidden": 15}, 1.663),
    ({"hidden": 15, "chunk": 32}, 1.565),
    ({"hidden": 30, "depth": 3}, 1.613),
    ({"hidden": 30, "attention": "deepest"}, 5.379),
    ({"hidden": 30, "attention": "deepest", "depth": 3}, 1.381),
]


def on_meta(**arguments) -> Manner:
    with torch.device("meta"):
        return Manner(**arguments)


@pytest.mark.parametrize(("arguments", "parameters"), EXACT, ids=str)
def test_trainable_parameters_are_exactly_the_published_ones(arguments, parameters):
    assert count_parameters(on_meta(**arguments), trainable_only=True) == parameters


@pytest.mark.parametrize(("arguments", "millions"), TO_A_THOUSAND, ids=str)
def test_relatives_have_the_tabulated_sizes(arguments, millions):
    assert round(count_parameters(on_meta(**arguments)) / 1e6, 3) == millions


@pytest.mark.parametrize(("arguments", "gmacs"), [({"attention": "deepest"}, 0.91), ({"hidden": 12}, 4.03)], ids=str)
def test_four_seconds_cost_the_tabulated_macs(arguments, gmacs):
    """Attention included, whose share grows with the clip."""
    assert round(count_macs(Manner(**{"hidden": 15, **arguments}), seconds=4.0).clip / 1e9, 2) == gmacs


@pytest.mark.parametrize(("depth", "padded"), [(3, 64020), (4, 64084), (5, 64852)])
def test_four_seconds_are_padded_to_the_tabulated_length(depth, padded):
    assert Manner(hidden=3, depth=depth).padded_samples(64000) == padded


def test_padding_is_the_least_that_leaves_no_rest():
    def fits(length: int) -> bool:
        for _ in range(2):
            if length < 8 or (length - 8) % 4:
                return False
            length = (length - 8) // 4 + 1
        return True

    model = Manner(**TINY)
    for samples in range(1, 60):
        assert model.padded_samples(samples) == next(n for n in range(samples, 200) if fits(n))


@pytest.mark.parametrize("samples", [1, 2, 17, 301, 1000])
@pytest.mark.parametrize("choice", [{}, {"attention": "deepest"}, {"growth": 3}, {"kernel": 5, "stride": 2}], ids=str)
def test_any_length_comes_back_at_its_length(samples, choice):
    estimate = Manner(**TINY, **choice).eval()(torch.randn(2, samples))
    assert estimate.waveform.shape == (2, samples) and torch.isfinite(estimate.waveform).all()
    assert estimate.mask.shape == (2, 6, samples) and torch.all(estimate.mask >= 0)


def test_items_of_a_batch_do_not_see_each_other_in_eval_mode():
    model = Manner(**TINY, heads=2).eval()
    noisy = torch.randn(3, 700) * torch.tensor([[0.01], [1.0], [5.0]])
    together = model(noisy).waveform
    for i in range(3):
        torch.testing.assert_close(model(noisy[i : i + 1]).waveform[0], together[i], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", ["all silent", "one silent"])
def test_silence_stays_silent_with_finite_gradients(training, batch):
    model = Manner(**TINY).train(training)
    noisy = torch.randn(2, 500) * torch.tensor([[0.0], [0.0 if batch == "all silent" else 1.0]])
    noisy.requires_grad_()
    wave = model(noisy).waveform
    wave.square().sum().backward()
    assert torch.all(wave[0] == 0)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert torch.isfinite(noisy.grad).all()


def test_the_output_follows_the_level_of_the_input():
    model = Manner(**TINY).eval()
    noisy = torch.randn(1, 600)
    loud = model(100 * noisy).waveform
    torch.testing.assert_close(loud, 100 * model(noisy).waveform, rtol=5e-3, atol=5e-3 * loud.abs().max().item())


def test_the_whole_clip_is_seen_and_the_model_says_so():
    model = Manner(**TINY).eval()
    noisy = torch.randn(1, 2000, requires_grad=True)
    (grad,) = torch.autograd.grad(model(noisy).waveform[0, 0], noisy)
    assert torch.any(grad[0, -5:] != 0)
    assert model.causal is False
    with pytest.raises(NotImplementedError, match="does not stream"):
        model.initial_state(1)


@pytest.mark.parametrize("samples", [1, 7, 8, 9, 12, 100])
def test_chunks_overlap_by_half_and_join_to_what_was_cut(samples):
    x = torch.randn(2, 3, samples)
    chunks = cut(x, 8)
    assert chunks.shape == (2, 3, (samples + 8) // 4 + 1, 8)
    padded = torch.cat([torch.zeros(2, 3, 8), x, torch.zeros(2, 3, 8)], dim=-1)
    for p in range(chunks.shape[2]):
        torch.testing.assert_close(chunks[:, :, p], padded[:, :, 4 * p : 4 * p + 8])
    torch.testing.assert_close(join(chunks, samples), x)


def test_channel_attention_scales_by_maximum_and_mean():
    layer, x = ChannelAttention(4), torch.randn(2, 4, 9)
    for i in range(2):
        logits = layer.mlp(torch.stack([row.max() for row in x[i]])) + layer.mlp(x[i].sum(-1) / 9)
        torch.testing.assert_close(layer(x)[i], x[i] * (1 / (1 + (-logits).exp()))[:, None])


@pytest.mark.parametrize("heads", [1, 2])
def test_global_attention_is_softmax_attention_across_the_chunks_of_one_channel(heads):
    layer, x = GlobalAttention(8, heads).double(), torch.randn(2, 3, 21, dtype=torch.float64)
    chunks, width = cut(x, 8), 8 * heads
    mixed = torch.zeros_like(chunks)
    for i in range(2):
        for c in range(3):
            q, k, v = (chunks[i, c] @ m.weight.T for m in (layer.query, layer.key, layer.value))
            parts = []
            for h in range(heads):
                own = slice(h * width, (h + 1) * width)
                scores = (q[:, own] @ k[:, own].T / math.sqrt(width)).exp()
                parts.append(scores / scores.sum(1, keepdim=True) @ v[:, own])
            mixed[i, c] = torch.cat(parts, dim=1) @ layer.out.weight.T
    torch.testing.assert_close(layer(x), join(mixed, 21))


def test_local_attention_gates_each_chunk_by_itself():
    layer, x = LocalAttention(3, 8).double().eval(), torch.randn(2, 3, 21, dtype=torch.float64)
    randomise_norms(layer)
    chunks = cut(x, 8)
    gated = torch.zeros_like(chunks)
    for p in range(chunks.shape[2]):
        inside = layer.depthwise(chunks[:, :, p])
        pooled = torch.stack([inside.max(1).values, inside.sum(1) / 3], dim=1)
        gated[:, :, p] = chunks[:, :, p] / (1 + (-layer.gate(pooled)).exp())
    torch.testing.assert_close(layer(x), join(gated, 21))


def test_the_residual_conformer_follows_its_definition():
    layer, x = ResidualConformer(4, 8).double().eval(), torch.randn(2, 4, 40, dtype=torch.float64)
    randomise_norms(layer)

    def conv_norm(y: torch.Tensor, conv: nn.Conv1d, norm: nn.BatchNorm1d) -> torch.Tensor:
        y = nn.functional.conv1d(y, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2, groups=conv.groups)
        shifted = (y - norm.running_mean[:, None]) / (norm.running_var[:, None] + 1e-5).sqrt()
        return shifted * norm.weight[:, None] + norm.bias[:, None]

    value, gate = conv_norm(x, *layer.expand[:2]).chunk(2, dim=1)
    y = conv_norm(value * gate.sigmoid(), *layer.depthwise[:2])
    y = conv_norm(y * y.sigmoid(), *layer.project[:2])
    y = conv_norm(y * y.sigmoid(), *layer.out) + conv_norm(x, *layer.shortcut)
    torch.testing.assert_close(layer(x), y.clamp_min(0))


def test_the_three_views_are_merged_gated_and_added_to_a_shortcut():
    block, x = MultiViewBlock(6, 8, 1).double().eval(), torch.randn(2, 6, 30, dtype=torch.float64)
    randomise_norms(block)
    thirds = [block.refine[v](block.views[v](block.reduce[v](x))) for v in ("channel", "global", "local")]
    merged, gate = block.merge(torch.cat(thirds, dim=1)), block.gate
    gated = gate.out(gate.value(merged).tanh() / (1 + (-gate.gate(merged)).exp())).clamp_min(0)
    torch.testing.assert_close(block(x), gated + block.shortcut(x))
    momenta = {m.momentum for m in block.modules() if isinstance(m, nn.BatchNorm1d)}
    assert momenta == {0.01, 0.1}  # 0.1 in the depthwise convolution of the local view alone
    assert [m.momentum for m in block.views["local"].depthwise if isinstance(m, nn.BatchNorm1d)] == [0.1]


def test_the_mask_applies_to_the_features_of_the_first_layer():
    model = Manner(**TINY).eval()
    nn.init.zeros_(model.mask.out.weight)
    nn.init.ones_(model.mask.out.bias)  # a mask of ones
    noisy = torch.randn(2, 301)
    level = torch.stack([((wave - wave.mean()).square().sum() / 300).sqrt() for wave in noisy])[:, None]
    features = model.stem(nn.functional.pad(noisy / (level + 1e-3), (0, 60))[:, None])
    torch.testing.assert_close(model(noisy).waveform, level * model.out(features)[:, 0, :301])


def randomise_norms(module: nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)


def test_taps_name_each_view_and_the_view_is_what_the_block_refines():
    model = Manner(**TINY).eval()
    names = []
    for block in ("encoder0", "encoder1", "bottleneck", "decoder0", "decoder1"):
        names += [f"{block}_{v}" for v in ("channel", "global", "local") if block != "bottleneck"] + [block]
    assert list(model.taps()) == names
    recorder, inputs = TapRecorder(model, model.taps()), {}
    block = model.encoder[0].attention
    for view in ("channel", "global", "local"):
        block.refine[view].register_forward_pre_hook(lambda _, args, view=view: inputs.update({view: args[0]}))
    with recorder:
        model(torch.randn(2, 400))
    shown = recorder.activations()
    assert len(inputs) == 3
    for view, x in inputs.items():
        torch.testing.assert_close(shown[f"encoder0_{view}"], x[..., None], rtol=0, atol=0)


@pytest.mark.parametrize("hidden", [6, 12])
def test_views_have_a_third_of_the_channels_and_one_length_whatever_the_width(hidden):
    model = Manner(hidden, depth=2)
    shapes = probe(model, model.taps(), samples=4000)  # padded to 4004: 1000 and 249 frames
    expected = {"encoder0": (2, 1000), "encoder1": (4, 249), "decoder0": (2, 1000), "decoder1": (1, 4004)}
    for block, (widening, frames) in expected.items():
        assert tuple(shapes[block]) == (1, widening * hidden, frames, 1)
        for view in ("channel", "global", "local"):
            assert tuple(shapes[f"{block}_{view}"]) == (1, widening * hidden // 3, frames, 1)
    assert tuple(shapes["bottleneck"]) == (1, 4 * hidden, 249, 1)


def test_small_attends_in_the_deepest_blocks_alone():
    model = Manner(**{**TINY, "depth": 3}, attention="deepest")
    blocks = [n for n, m in model.named_modules() if isinstance(m, MultiViewBlock)]
    assert blocks == ["encoder.2.attention", "decoder.0.attention"]
    assert [n for n in model.taps() if n.endswith("_global")] == ["encoder2_global", "decoder0_global"]


def test_initial_convolutions_have_the_rescaled_spread():
    """Dividing by sqrt(std / 0.1) leaves a spread of sqrt(0.1 std)."""
    torch.manual_seed(3)
    model = Manner(**TINY)
    torch.manual_seed(3)
    plain = nn.Conv1d(1, 6, 3, padding=1)  # the first layer that draws
    std = plain.weight.std()
    torch.testing.assert_close(model.stem[0].weight, plain.weight / (std / 0.1).sqrt())
    torch.testing.assert_close(model.stem[0].bias, plain.bias / (std / 0.1).sqrt())
    assert model.stem[0].weight.std().item() == pytest.approx(math.sqrt(0.1 * std.item()), rel=1e-5)


def test_a_compressed_student_keeps_thirds_and_comes_near_the_target():
    teacher = on_meta(hidden=48, depth=2)
    budget = find_widths(teacher, ratio=10)
    assert budget.init_args["hidden"] % 3 == 0
    assert abs(budget.parameters - count_parameters(teacher) / 10) < 0.1 * budget.parameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": 16}, "hidden=16: must be a multiple of 3"),
        ({"hidden": 0}, "hidden=0"),
        ({"depth": 0}, "depth=0"),
        ({"chunk": 9}, "chunk=9: must be even"),
        ({"kernel": 2}, "kernel=2 is shorter than stride=4"),
        ({"attention": "none"}, "attention='none'"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        Manner(**arguments)
