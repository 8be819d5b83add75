"""A checkpoint's optimizer and scheduler settings are compared with those asked for, whatever training has moved."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, AdamW
from torch.optim import lr_scheduler as schedulers

from kdse.errors import UserError
from kdse.run.optimizer_settings import check_optimizer, use_fused


def make(optimizer, scheduler=None):
    made = optimizer([torch.nn.Parameter(torch.ones(2))])
    scheduler = None if scheduler is None else scheduler(made)
    for group in made.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return made, scheduler


def trained(optimizer, scheduler=None) -> dict:
    """A checkpoint after three epochs."""
    made, moving = make(optimizer, scheduler)
    for _ in range(3):
        made.param_groups[0]["params"][0].grad = torch.ones(2)
        made.step()
        if moving is not None:
            moving.step(*([1.0] if isinstance(moving, schedulers.ReduceLROnPlateau) else []))
    states = [] if moving is None else [moving.state_dict()]
    return copy.deepcopy({"optimizer_states": [made.state_dict()], "lr_schedulers": states})


MOVING = {
    "none": None,
    "exponential": partial(schedulers.ExponentialLR, gamma=0.5),
    "cosine": partial(schedulers.CosineAnnealingLR, T_max=5),
    "restarts": partial(schedulers.CosineAnnealingWarmRestarts, T_0=2),
    "milestones": partial(schedulers.MultiStepLR, milestones=[1, 2]),
    "one cycle": partial(schedulers.OneCycleLR, max_lr=0.1, total_steps=9),
    "cyclic": partial(schedulers.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=2),
    "warm-up": partial(schedulers.LinearLR, start_factor=0.1, total_iters=4),
    "plateau": partial(schedulers.ReduceLROnPlateau, patience=0, factor=0.5),
}


@pytest.mark.parametrize("moving", MOVING.values(), ids=MOVING)
@pytest.mark.parametrize("optimizer", [partial(Adam, lr=0.02), partial(SGD, lr=0.02, momentum=0.9)])
def test_equal_settings_pass_after_any_number_of_steps(optimizer, moving):
    check_optimizer(trained(optimizer, moving), *make(optimizer, moving), "last.ckpt")


ADAM = partial(Adam, lr=0.02)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ((partial(Adam, lr=0.01),), "--model.optimizer.lr 0.02 there, 0.01 here"),
        ((partial(Adam, lr=0.02, weight_decay=0.1),), "--model.optimizer.weight_decay 0 there, 0.1 here"),
        ((partial(Adam, lr=0.02, betas=(0.8, 0.999)),), "--model.optimizer.betas"),
        ((partial(SGD, lr=0.02, momentum=0.9),), "--model.optimizer is of another class"),
        ((partial(AdamW, lr=0.02, weight_decay=0),), "--model.optimizer.decoupled_weight_decay"),
        ((ADAM, MOVING["exponential"]), "--model.lr_scheduler: none there, one here"),
    ],
)
def test_other_optimizer_settings_are_refused_by_name(asked, named):
    with pytest.raises(UserError, match=re.escape(named)) as refused:
        check_optimizer(trained(ADAM), *make(*asked), "last.ckpt")
    assert "--model.weights=last.ckpt" in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (partial(schedulers.CosineAnnealingLR, T_max=30, eta_min=1e-5), "--model.lr_scheduler.T_max 5 there, 30 here"),
        (partial(schedulers.CosineAnnealingLR, T_max=5, eta_min=1e-5), "--model.lr_scheduler.eta_min 0.0 there"),
        (MOVING["exponential"], "--model.lr_scheduler is of another class"),
        (None, "--model.lr_scheduler: one there, none here"),
    ],
)
def test_another_scheduler_is_refused_by_name(asked, named):
    with pytest.raises(UserError, match=re.escape(named)):
        check_optimizer(trained(ADAM, MOVING["cosine"]), *make(ADAM, asked), "last.ckpt")


@pytest.mark.parametrize("kind", [Adam, AdamW, partial(SGD, momentum=0.9)])
def test_a_fused_optimizer_goes_on_where_the_plain_one_was(kind):
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizers = [kind([weight], lr=0.1) for weight in weights]
    for step in range(4):
        if step == 2:
            assert use_fused(optimizers[1])
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.tensor([1.0, -2.0, 3.0 * step])
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1])


@pytest.mark.parametrize("fused", [None, True])
def test_a_first_step_that_is_left_out_leaves_no_momentum_and_a_later_first_gradient_is_taken(fused, monkeypatch):
    # (what new memory holds, made sure of)
    monkeypatch.setattr(torch, "empty_like", lambda like: torch.full_like(like, 7.0))
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(4)]
    optimizers = [SGD(weights[:2], lr=0.1, momentum=0.9, fused=fused), SGD(weights[2:], lr=0.1, momentum=0.9)]
    assert use_fused(optimizers[0])
    for step in range(4):
        optimizers[0].found_inf = torch.tensor(float(step == 0))
        for first, second in (weights[:2], weights[2:]):
            first.grad = torch.tensor([1.0, -2.0, step])
            second.grad = torch.ones(3) if step > 1 else None  # as of a part that a phase frees
        optimizers[0].step()
        if step > 0:
            optimizers[1].step()
    for ours, plain in zip(weights[:2], weights[2:], strict=True):
        torch.testing.assert_close(ours, plain)


class Own(Adam):
    """Whose step looks for no `found_inf`."""


@pytest.mark.parametrize(
    "kind",
    [
        partial(Adam, foreach=True),
        torch.optim.RMSprop,
        torch.optim.Adagrad,
        Own,
        partial(SGD, momentum=0.9, dampening=0.1),
    ],
)
def test_an_optimizer_of_another_form_or_kind_is_left_as_it_is(kind):
    optimizer = kind([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    assert not use_fused(optimizer) and not optimizer.param_groups[0].get("fused")
