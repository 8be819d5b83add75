"""Optimizer and scheduler settings of a checkpoint beside those asked for: its own would win, without a word."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdse.errors import UserError

#: Entries of an optimizer's group that are no settings, that say only how a step is computed, or that
#: `_learning_rate` reads.
_NO_SETTINGS = {"params", "lr", "initial_lr", "kdse_base_lr", "fused", "foreach"}


def check_optimizer(
    checkpoint: Mapping[str, Any], optimizer: torch.optim.Optimizer, scheduler: Any, source: str
) -> None:
    """Refuses to go on from a checkpoint with other settings of optimizer or learning-rate scheduler.

    A checkpoint brings its optimizer and scheduler whole. Other settings would have to be mixed with moments and a
    position on a curve that were made with the old ones, and no rule for that holds for all of them: our choice is to
    refuse, and to point at ``--model.weights``, which takes the weights alone.

    Args:
        checkpoint: of Lightning.
        optimizer: made with what is asked for, and no step taken.
        scheduler: the same; None without one.
        source: what to call the checkpoint.

    Raises:
        UserError: that names every setting that differs, with both values.
    """
    found = [*_optimizer_differences(checkpoint, optimizer, scheduler), *_scheduler_differences(checkpoint, scheduler)]
    if found:
        raise UserError(
            f"--ckpt_path {source}: goes on with its own optimizer and scheduler, and this start asks for others: "
            f"{'; '.join(found)}. Give those of the checkpoint, or start anew from its weights with "
            f"--model.weights={source}"
        )


def use_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Lets Adam, AdamW or SGD take its steps in one kernel, unless the user chose otherwise; returns whether
    all its groups do. Such an optimizer leaves a step out if its attribute ``found_inf`` holds 1.

    Subclasses stay as they are, for their steps may be their own. So does SGD with dampening: its first momentum is the
    gradient itself, which a step that is left out would have to leave undecided. Any other momentum begins at zero.

    For use before the first step of a run, after its state is loaded.
    """
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD):
        return False
    for group in optimizer.param_groups:
        settled = group.get("foreach") or group.get("differentiable") or isinstance(group["lr"], Tensor)
        if group["fused"] is None and not settled and not group.get("dampening"):
            group["fused"] = True
            for parameter, state in ((p, optimizer.state.get(p, {})) for p in group["params"]):
                if "step" in state:  # the other forms keep it on the CPU
                    state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=parameter.device)
        if group["fused"] and group.get(
            "momentum"
        ):  # (the first step left out would leave what memory happens to hold)
            for parameter in group["params"]:
                if (state := optimizer.state[parameter]).get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
    return all(group["fused"] and not group.get("dampening") for group in optimizer.param_groups)


def _optimizer_differences(checkpoint: Mapping[str, Any], optimizer: Any, scheduler: Any) -> list[str]:
    states = checkpoint.get("optimizer_states") or [{}]
    found: dict[str, str] = {}
    moving = {"betas", "momentum"} if getattr(scheduler, "cycle_momentum", False) else set()
    for stored, asked in zip(states[0].get("param_groups", []), optimizer.param_groups, strict=False):
        old, new = ({k: v for k, v in g.items() if k not in _NO_SETTINGS | moving} for g in (stored, asked))
        if any(old.get(k) or new.get(k) for k in old.keys() ^ new.keys()):  # (torch adds settings that are off)
            return ["--model.optimizer is of another class"]
        old["lr"], new["lr"] = _learning_rate(stored, scheduler), _learning_rate(asked, scheduler)
        if None in (old["lr"], new["lr"]):
            del old["lr"]
        different = (k for k in old.keys() & new.keys() if _plain(old[k]) != _plain(new[k]))
        found |= {k: _both(f"optimizer.{k}", old[k], new[k]) for k in different}
    return [found[name] for name in sorted(found)]


def _learning_rate(group: Mapping[str, Any], scheduler: Any) -> Any:
    """The learning rate that a group was made with; None if a scheduler has moved it and nothing else is known."""
    for key in ("initial_lr", "kdse_base_lr"):
        if key in group:
            return float(group[key])
    return float(group["lr"]) if scheduler is None else None


def _scheduler_differences(checkpoint: Mapping[str, Any], scheduler: Any) -> list[str]:
    states = checkpoint.get("lr_schedulers") or []
    if scheduler is None or not states:
        has, wants = ("one" if there else "none" for there in (states, scheduler is not None))
        return [] if has == wants else [f"--model.lr_scheduler: {has} there, {wants} here"]
    stored, asked = states[0], scheduler.state_dict()
    if stored.keys() != asked.keys():
        return ["--model.lr_scheduler is of another class"]
    names = inspect.signature(type(scheduler)).parameters.keys() - {"last_epoch"}
    settings = sorted(name for name in names if name in asked)
    return [_both(f"lr_scheduler.{n}", stored[n], asked[n]) for n in settings if _plain(stored[n]) != _plain(asked[n])]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _both(name: str, stored: Any, asked: Any) -> str:
    return f"--model.{name} {stored} there, {asked} here"
