"""Similarity preserving agrees with plain float64 loops written from the paper's equations."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from kdse.objectives import SimilarityPreserving

B, T = 3, 4
LAYERS = [(5, 2, 6), (4, 3, 3), (7, 2, 2)]  # teacher channels, student channels, frequencies


def activations(seed: int, side: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, layer[side], T, layer[2], dtype=torch.float64, generator=generator) for layer in LAYERS]


def loop_grams(x: torch.Tensor, over: tuple[str, ...]) -> dict[tuple[int, int], torch.Tensor]:
    """Gram matrices by index, each entry a sum over what is contracted."""
    frames = range(T) if "time" in over else [-1]
    bins = range(x.shape[3]) if "frequency" in over else [-1]
    grams = {}
    for t in frames:
        for f in bins:
            gram = torch.zeros(B, B, dtype=torch.float64)
            for i in range(B):
                for j in range(B):
                    for c in range(x.shape[1]):
                        for tt in range(T) if t < 0 else [t]:
                            for ff in range(x.shape[3]) if f < 0 else [f]:
                                gram[i, j] += x[i, c, tt, ff] * x[j, c, tt, ff]
            grams[t, f] = gram
    return grams


def contracted(x: torch.Tensor, over: tuple[str, ...]) -> int:
    return x.shape[1] * (1 if "time" in over else T) * (1 if "frequency" in over else x.shape[3])


def loop_normalise(gram: torch.Tensor, how: str | None) -> torch.Tensor:
    if how == "row":
        return torch.stack([row / row.square().sum().sqrt() for row in gram])
    if how == "frobenius":
        return gram / gram.square().sum().sqrt()
    return gram


OVERS = [(), ("time",), ("frequency",), ("time", "frequency")]


@pytest.mark.parametrize("over", OVERS, ids=str)
@pytest.mark.parametrize("normalize", [None, "row", "frobenius"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_local_form_agrees_with_a_loop(over, normalize, reduction):
    teacher, student = activations(0, 0), activations(1, 1)
    total = 0.0
    for a, b in zip(teacher, student, strict=True):
        scales = [1.0, 1.0]
        if reduction == "mean" and normalize is None:
            scales = [1 / contracted(a, over), 1 / contracted(b, over)]
        grams_a, grams_b = loop_grams(a, over), loop_grams(b, over)
        layer = 0.0
        for key in grams_a:
            ga = loop_normalise(scales[0] * grams_a[key], normalize)
            gb = loop_normalise(scales[1] * grams_b[key], normalize)
            layer += (ga - gb).square().sum().item() / B**2
        total += layer / (len(grams_a) if reduction == "mean" else 1)
    if reduction == "mean":
        total /= len(LAYERS)
    objective = SimilarityPreserving(over=list(over), normalize=normalize, reduction=reduction)
    assert objective.compare(teacher, student).item() == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("over", [("time",), ("time", "frequency")], ids=str)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_flow_form_agrees_with_a_loop(over, reduction):
    teacher, student = activations(0, 0), activations(1, 1)

    def flows(layers: list[torch.Tensor], i: int, j: int) -> list[float]:
        gi, gj = loop_grams(layers[i], over), loop_grams(layers[j], over)
        scale = 1.0
        if reduction == "mean":
            scale = 1 / (contracted(layers[i], over) * contracted(layers[j], over))
        values = []
        for t in range(T):
            if over == ("time",):  # G_t^i (G_t^j)^T
                product = gi[t, -1] @ gj[t, -1].T
                values += [scale * float(v) for v in product.flatten()]
            else:  # per (t, b): [f_i, b] times [b, f_j]
                for b in range(B):
                    for fi in range(layers[i].shape[3]):
                        for fj in range(layers[j].shape[3]):
                            dot = sum(float(gi[t, fi][b, k] * gj[t, fj][b, k]) for k in range(B))
                            values.append(scale * dot)
        return values

    total, pairs = 0.0, list(combinations(range(len(LAYERS)), 2))
    for i, j in pairs:
        a, b = flows(teacher, i, j), flows(student, i, j)
        term = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / B**2
        if reduction == "mean":
            term /= T * (LAYERS[i][2] * LAYERS[j][2] if len(over) == 2 else 1)
        total += term
    if reduction == "mean":
        total /= len(pairs)
    objective = SimilarityPreserving(over=list(over), flow=True, reduction=reduction)
    assert objective.compare(teacher, student).item() == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("over", [("time",), ("time", "frequency")], ids=str)
def test_gradients_agree_with_finite_differences(over, flow):
    teacher, student = activations(0, 0), [x.requires_grad_() for x in activations(1, 1)]
    objective = SimilarityPreserving(over=list(over), flow=flow)
    assert torch.autograd.gradcheck(lambda *s: objective.compare(teacher, list(s)), student)


@pytest.mark.parametrize("over", OVERS, ids=str)
def test_equal_activations_cost_nothing_and_scaled_gradients_vanish(over):
    same = activations(0, 1)
    student = [x.clone().requires_grad_() for x in same]
    value = SimilarityPreserving(over=list(over)).compare(same, student)
    value.backward()
    assert value.item() == 0.0 and all(torch.all(x.grad == 0) for x in student)


def test_a_rotation_of_the_channels_costs_nothing():
    teacher = activations(0, 0)
    rotations = [torch.linalg.qr(torch.randn(x.shape[1], x.shape[1], dtype=torch.float64))[0] for x in teacher]
    student = [torch.einsum("bctf,cd->bdtf", x, r) for x, r in zip(teacher, rotations, strict=True)]
    assert SimilarityPreserving().compare(teacher, student).item() == pytest.approx(0.0, abs=1e-20)


def test_the_difference_keeps_its_precision_when_the_pair_is_nearly_equal():
    """In float32, against float64: a trace identity would lose every digit here."""
    teacher = activations(0, 0)
    student = [x * (1 + 1e-3) for x in teacher]
    objective = SimilarityPreserving()
    exact = objective.compare(teacher, student).item()
    single = objective.compare([x.float() for x in teacher], [x.float() for x in student]).item()
    assert single == pytest.approx(exact, rel=5e-3)


def test_axes_that_cannot_be_compared_are_named():
    teacher, student = torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 9, 8)
    with pytest.raises(ValueError, match="differ in frames"):
        SimilarityPreserving().compare([teacher], [student])
    frequencies_only = SimilarityPreserving(over=["frequency"])
    assert frequencies_only.compare([teacher], [student]).item() == 0.0


@pytest.mark.parametrize(
    ("bad", "named"),
    [({"over": ["channel"]}, "over"), ({"normalize": "column"}, "normalize"), ({"reduction": "max"}, "reduction"),
     ({"flow": True, "over": ["frequency"]}, "time"), ({"weight": -1.0}, "weight"), ({"pairs": "middle"}, "pairs")],
)  # fmt: skip
def test_an_impossible_setting_is_named(bad, named):
    with pytest.raises(ValueError, match=named):
        SimilarityPreserving(**bad)
