"""VID agrees with scipy's normal density and learns the variance it should."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from kdse.objectives.variational import Gaussian, VariationalInformation
from tests.objectives.pairs import B, activations, bound


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_it_agrees_with_scipys_log_density_up_to_the_constant(reduction):
    teacher, mean = activations(0, 0), activations(1, 0)
    variance = [torch.rand(x.shape[1], dtype=torch.float64) + 0.1 for x in teacher]
    terms = []
    for a, b, v in zip(teacher, mean, variance, strict=True):
        density = norm.logpdf(a.numpy(), b.numpy(), v.sqrt().numpy()[None, :, None, None])
        cost = -density - 0.5 * math.log(2 * math.pi)
        terms.append(cost.sum() / B if reduction == "sum" else cost.mean())
    expected = sum(terms) if reduction == "sum" else sum(terms) / 2
    value = VariationalInformation(reduction=reduction).compare(teacher, mean, variance)
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_the_head_predicts_by_1x1_convolutions_and_softplus():
    teacher, student = activations(0, 0)[:1], activations(1, 1)[:1]
    objective = VariationalInformation(initial_variance=0.7, minimum_variance=0.1)
    exchange = bound(objective, teacher, student)
    head = exchange.heads["0"]
    with torch.no_grad():
        head.alpha.copy_(torch.linspace(-2, 2, 5))
    weight, bias = head.mean[0].weight.detach()[:, :, 0, 0], head.mean[0].bias.detach()
    total = 0.0
    for n, c, t, f in ((n, c, t, f) for n in range(B) for c in range(5) for t in range(3) for f in range(4)):
        mean = float(bias[c] + sum(weight[c, k] * student[0][n, k, t, f] for k in range(2)))
        variance = math.log(1 + math.exp(head.alpha[c].item())) + 0.1
        total += math.log(math.sqrt(variance)) + (float(teacher[0][n, c, t, f]) - mean) ** 2 / (2 * variance)
    assert objective.loss(exchange).item() == pytest.approx(total / teacher[0].numel(), rel=1e-10)


@pytest.mark.parametrize("initial", [1e-3, 0.5, 5.0, 500.0])
def test_the_variance_starts_where_asked(initial):
    _, variance = Gaussian(2, 3, 1, initial, 1e-5)(torch.zeros(1, 2, 1, 1))
    assert variance.tolist() == pytest.approx([initial] * 3, rel=1e-4)


def test_more_layers_are_convolutions_with_relu_between():
    kinds = [type(m).__name__ for m in Gaussian(2, 3, 3, 5.0, 1e-5).mean]
    assert kinds == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]


def test_the_best_variance_is_the_mean_squared_error_of_each_channel():
    """Closed form: with the mean fixed, the likelihood is largest there, so its slope vanishes."""
    teacher, mean = activations(0, 0)[:1], activations(1, 0)[:1]
    variance = (teacher[0] - mean[0]).square().mean((0, 2, 3)).requires_grad_()
    VariationalInformation().compare(teacher, mean, [variance]).backward()
    assert variance.grad.abs().max() < 1e-12
