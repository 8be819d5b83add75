"""Balanced terms pull at the student with the ratio of their weights, whatever their scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdse.gradients import GradientBalance
from kdse.models.checkpoint import fingerprint
from kdse.objectives import OutputDistillation, SimilarityPreserving
from kdse.schedule import Joint
from tests.test_distiller import distiller, fit
from tests.toys import ToyData, make_trainer


def norms(terms, factors, weight):
    return {
        name: torch.autograd.grad(factors[name] * value, weight, retain_graph=True)[0].norm().item()
        for name, value in terms.items()
    }


def make_terms(layer, x, scale):
    y = layer(x)
    return {"supervised": y.square().mean(), "small": 1e-6 * scale * y.abs().mean(), "large": 1e5 * y.sin().mean()}


def test_every_terms_gradient_norm_becomes_that_of_the_reference():
    layer, x = nn.Linear(4, 3, bias=False), torch.randn(8, 4)
    terms = make_terms(layer, x, 1.0)
    factors = GradientBalance().factors(terms, layer.parameters(), step=0, reference="supervised")
    after = norms(terms, factors, layer.weight)
    assert factors["supervised"] == 1.0
    assert after["small"] == pytest.approx(after["supervised"], rel=1e-4)
    assert after["large"] == pytest.approx(after["supervised"], rel=1e-4)


def test_it_measures_only_when_due_and_averages_what_it_measured():
    layer, x = nn.Linear(4, 3, bias=False), torch.randn(8, 4)
    balance = GradientBalance(every=4, decay=0.5)
    first = balance.factors(make_terms(layer, x, 1.0), layer.parameters(), 0, "supervised")
    kept = balance.factors(make_terms(layer, x, 3.0), layer.parameters(), 3, "supervised")
    assert kept == first
    due = balance.factors(make_terms(layer, x, 3.0), layer.parameters(), 4, "supervised")
    assert due["small"] == pytest.approx(first["small"] / 2, rel=1e-4)  # norms 1 and 3 average to 2


def test_a_term_without_gradient_is_left_alone():
    layer, x = nn.Linear(4, 3, bias=False), torch.randn(8, 4)
    terms = {"supervised": layer(x).square().mean(), "absent": torch.zeros(())}
    assert GradientBalance().factors(terms, layer.parameters(), 0, "supervised")["absent"] == 1.0


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_batch_that_gives_a_term_no_usable_gradient_does_not_count_for_it(bad):
    layer, x = nn.Linear(4, 3, bias=False), torch.randn(8, 4)
    good = make_terms(layer, x, 1.0)
    balance = GradientBalance(every=1)
    spoiled = {**good, "small": bad * layer(x).sum()}
    assert balance.factors(spoiled, layer.parameters(), 0, "supervised")["small"] == 1.0
    expected = GradientBalance(every=1).factors(good, layer.parameters(), 0, "supervised")["small"]
    assert balance.factors(good, layer.parameters(), 1, "supervised")["small"] == pytest.approx(expected)
    assert balance.factors(spoiled, layer.parameters(), 2, "supervised")["small"] == pytest.approx(expected)


def test_micro_batches_of_one_step_are_weighed_alike():
    layer, x = nn.Linear(4, 3, bias=False), torch.randn(8, 4)
    balance = GradientBalance(every=1)
    first = balance.factors(make_terms(layer, x, 1.0), layer.parameters(), 0, "supervised")
    assert balance.factors(make_terms(layer, x, 5.0), layer.parameters(), 0, "supervised") == first


def callbacks():
    return [SimilarityPreserving(over=["time", "frequency"]), OutputDistillation(on="mask"), Joint(0.5)]


def test_scaling_an_objective_changes_nothing_when_balanced_and_something_when_not(tmp_path):
    class Loud(OutputDistillation):
        def loss(self, exchange):
            return 1000 * super().loss(exchange)

    results = {}
    for balanced in (True, False):
        for kind in (OutputDistillation, Loud):
            model = distiller(balance_gradients=balanced, balance_every=2)
            fit(model, tmp_path, [kind(on="mask"), Joint(0.5)], max_steps=4)
            results[balanced, kind] = torch.cat([p.detach().flatten() for p in model.student.parameters()])
    torch.testing.assert_close(results[True, OutputDistillation], results[True, Loud], atol=1e-4, rtol=1e-3)
    assert (results[False, OutputDistillation] - results[False, Loud]).abs().max() > 1e-3


def test_a_resumed_balanced_run_ends_with_the_same_weights(tmp_path):
    whole = distiller(balance_gradients=True, balance_every=3)
    fit(whole, tmp_path, callbacks(), max_steps=8)
    first = distiller(balance_gradients=True, balance_every=3)
    fit(first, tmp_path, callbacks(), max_steps=5).save_checkpoint(tmp_path / "five.ckpt")
    second = distiller(balance_gradients=True, balance_every=3)
    trainer = make_trainer(tmp_path, callbacks(), max_steps=8)
    trainer.fit(second, ToyData(), ckpt_path=tmp_path / "five.ckpt", weights_only=True)
    assert fingerprint(second.student) == fingerprint(whole.student)
