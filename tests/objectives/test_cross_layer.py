"""Cross-layer similarity: frame-level Grams agree with a loop, fusion is optional, the batch is the global one."""

from __future__ import annotations

import pytest
import torch

from kdse.objectives import SimilarityPreserving, base
from kdse.objectives.cross_layer import CrossLayerSimilarity
from tests.objectives.levels import (
    STUDENT_CHANNELS,
    TAPS,
    TEACHER_CHANNELS,
    activations,
    bind,
    check_gradients,
    check_silence,
    exchange,
)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_agrees_with_a_loop(reduction):
    teacher, student = activations(TEACHER_CHANNELS, 0), activations(STUDENT_CHANNELS, 1)
    total = 0.0
    for name in teacher:
        a, b = teacher[name], student[name]
        batch, _, frames, _ = a.shape
        for t in range(frames):
            for i in range(batch):
                for j in range(batch):
                    gram_a, gram_b = (float((x[i, :, t] * x[j, :, t]).sum()) for x in (a, b))
                    if reduction == "mean":
                        gram_a, gram_b = gram_a / a[i, :, t].numel(), gram_b / b[i, :, t].numel()
                    total += (gram_a - gram_b) ** 2 / batch**2 / (frames * len(teacher) if reduction == "mean" else 1)
    objective = CrossLayerSimilarity(reduction=reduction)
    assert objective.compare([*teacher.values()], [*student.values()]).item() == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("normalize", [None, "row", "frobenius"])
def test_without_fusion_it_is_similarity_preserving_over_time_and_has_no_heads(normalize):
    teacher, student = activations(TEACHER_CHANNELS, 0), activations(STUDENT_CHANNELS, 1)
    objective = CrossLayerSimilarity(fusion=False, normalize=normalize)
    heads = bind(objective)
    assert len(heads) == 0
    plain = SimilarityPreserving(over=["time"], normalize=normalize)
    plain.bound_pairs = objective.bound_pairs
    both = exchange(teacher, student, heads)
    assert objective.loss(both).item() == plain.loss(both).item()


def test_encoder_and_decoder_are_fused_and_the_bottleneck_is_not():
    objective = CrossLayerSimilarity()
    heads = bind(objective)
    assert list(objective.chains.values()) == [[1, 0], [3, 4]] and set(heads) == set(objective.chains)
    teacher, student = activations(TEACHER_CHANNELS, 0), activations(STUDENT_CHANNELS, 1)
    fused = objective.fuse(exchange(teacher, student, heads), [*teacher.values()])
    assert fused[2] is student["gru"]
    assert all(fused[i].shape == teacher[name].shape for i, name in enumerate(TAPS) if name != "gru")


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equal_levels_cost_nothing(reduction):
    teacher = [*activations(TEACHER_CHANNELS, 0).values()]
    assert CrossLayerSimilarity(reduction=reduction).compare(teacher, [x.clone() for x in teacher]).item() == 0.0


def test_gradients_reach_student_and_heads_alone():
    check_gradients(CrossLayerSimilarity())


@pytest.mark.parametrize("normalize", [None, "row", "frobenius"])
@pytest.mark.parametrize("silent_teacher", [False, True])
def test_silence_is_finite(normalize, silent_teacher):
    check_silence(CrossLayerSimilarity(normalize=normalize), silent_teacher)


@pytest.mark.parametrize("gather", [True, False])
def test_the_global_batch_is_compared_if_asked(gather, monkeypatch):
    """Another process's items, here the own ones negated, enter both Grams alike."""
    monkeypatch.setattr(base, "gather_batch", lambda x: torch.cat([x, -x]))
    objective = CrossLayerSimilarity(gather=gather)
    heads = bind(objective)
    teacher, student = activations(TEACHER_CHANNELS, 0), activations(STUDENT_CHANNELS, 1)
    features = objective.fuse(exchange(teacher, student, heads), [*teacher.values()])
    sides = [[torch.cat([x, -x]) if gather else x for x in side] for side in (teacher.values(), features)]
    expected = objective.compare(*sides).item()
    assert objective.loss(exchange(teacher, student, heads)).item() == pytest.approx(expected, rel=1e-12)


def test_an_unfused_pair_of_other_frames_is_named_when_heads_are_built():
    with pytest.raises(ValueError, match="cross_layer_similarity.*'gru'.*frames"):
        bind(CrossLayerSimilarity(), frames=126, teacher_frames=252)
    with pytest.raises(ValueError, match="'encoder0'.*frames"):
        bind(CrossLayerSimilarity(fusion=False), frames=126, teacher_frames=252)


def test_an_impossible_normalisation_is_named():
    with pytest.raises(ValueError, match="normalize"):
        CrossLayerSimilarity(normalize="column")
