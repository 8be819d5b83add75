"""A made-up pair of U-Nets for the tests of review fusion: taps, shapes and an exchange, without any network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdse.models.base import Estimate, Tap
from kdse.objectives.base import Exchange
from kdse.objectives.review_fusion import ReviewObjective

FREQUENCIES = {"encoder0": 8, "encoder1": 4, "gru": 4, "decoder0": 8, "decoder1": 16}
TAPS = {name: Tap(name, group="bottleneck" if name == "gru" else name[:-1]) for name in FREQUENCIES}
TEACHER_CHANNELS = {"encoder0": 4, "encoder1": 6, "gru": 6, "decoder0": 4, "decoder1": 1}
STUDENT_CHANNELS = {"encoder0": 2, "encoder1": 3, "gru": 3, "decoder0": 2, "decoder1": 1}


def activations(channels: dict[str, int], seed: int, batch: int = 3, frames: int = 6, grad: bool = False) -> dict:
    """Random float64 activations ``[B, C, T, F]`` by tap name."""
    generator = torch.Generator().manual_seed(seed)
    taps = {}
    for name, c in channels.items():
        taps[name] = torch.randn(batch, c, frames, FREQUENCIES[name], dtype=torch.float64, generator=generator)
        taps[name].requires_grad_(grad)
    return taps


def bind(objective: ReviewObjective, frames: int = 126, teacher_frames: int = 126) -> nn.ModuleDict:
    """Resolves the pairs and builds float64 heads, as the Distiller does, from shapes of one long clip."""
    objective.bound_pairs = objective.resolve_pairs(TAPS, TAPS)

    def shapes(channels: dict[str, int], frames: int) -> dict[str, torch.Size]:
        return {n: torch.Size([1, c, frames, FREQUENCIES[n]]) for n, c in channels.items()}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        heads = objective.build_heads(shapes(TEACHER_CHANNELS, teacher_frames), shapes(STUDENT_CHANNELS, frames))
    return nn.ModuleDict() if heads is None else heads.double()


def exchange(teacher: dict[str, Tensor], student: dict[str, Tensor], heads: nn.ModuleDict) -> Exchange:
    audio = torch.zeros(next(iter(student.values())).shape[0], 16)
    estimate = Estimate(audio)
    return Exchange(audio, estimate, teacher=estimate, teacher_taps=teacher, student_taps=student, heads=heads)


def check_gradients(objective: ReviewObjective) -> None:
    """The loss moves every student tap and every head, never the teacher."""
    heads = bind(objective)
    teacher = activations(TEACHER_CHANNELS, 0, grad=True)
    student = activations(STUDENT_CHANNELS, 1, grad=True)
    objective.loss(exchange(teacher, student, heads)).backward()
    assert all(x.grad is None for x in teacher.values())
    assert all(torch.isfinite(x.grad).all() and x.grad.abs().max() > 0 for x in student.values())
    # A bias before a norm over few values may get a gradient of rounding size, but it gets one.
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in heads.parameters())
    moved = [p.grad.abs().max() > 1e-12 for p in heads.parameters()]
    assert sum(moved) >= 0.9 * len(moved)


def check_silence(objective: ReviewObjective, silent_teacher: bool) -> None:
    """All-zero activations of one or both networks: finite loss and gradients, in float32."""
    heads = bind(objective).float()
    scale = 0.0 if silent_teacher else 1.0
    teacher = {n: scale * x.float() for n, x in activations(TEACHER_CHANNELS, 0).items()}
    student = {n: torch.zeros_like(x).float().requires_grad_() for n, x in activations(STUDENT_CHANNELS, 1).items()}
    value = objective.loss(exchange(teacher, student, heads))
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(x.grad).all() for x in student.values())
    assert all(torch.isfinite(p.grad).all() for p in heads.parameters())
