"""Probing a model with noise, without a trace in its buffers, flags or random streams."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def probe_signal(model: nn.Module, samples: int) -> Tensor:
    """Fixed noise ``[1, samples]`` on the model's device, drawn from a generator of its own."""
    place = next(model.parameters(), torch.empty(0))
    noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    return (0.05 * noise).to(place.device)


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Runs the body, then puts buffers and random streams back."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    cuda = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Runs the body in eval mode under no_grad, then puts training flags, buffers and random streams back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        with restored(model), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, training in flags:
            module.training = training
