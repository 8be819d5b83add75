"""Activations and bound objectives that the tests of several objectives share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdse.models.base import Estimate
from kdse.objectives import Exchange, Objective

B, T = 4, 3
LAYERS = [(5, 2, 4), (4, 3, 3)]  # teacher channels, student channels, frequencies


def activations(seed: int, side: int, layers: list[tuple[int, int, int]] = LAYERS, batch: int = B) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, x[side], T, x[2], dtype=torch.float64, generator=generator) for x in layers]


def bound(objective: Objective, teacher: list[Tensor], student: list[Tensor]) -> Exchange:
    """Binds the objective to taps "t0 -> s0", "t1 -> s1", ... and builds its heads, as the Distiller does."""
    objective.bound_pairs = [(f"t{i}", f"s{i}") for i in range(len(teacher))]
    taps_t = {f"t{i}": x for i, x in enumerate(teacher)}
    taps_s = {f"s{i}": x for i, x in enumerate(student)}
    shapes = [{name: torch.Size([1, *x.shape[1:]]) for name, x in taps.items()} for taps in (taps_t, taps_s)]
    heads = objective.build_heads(*shapes) or nn.ModuleDict()
    silence = torch.zeros(len(teacher[0]), 1)
    return Exchange(silence, Estimate(silence), teacher_taps=taps_t, student_taps=taps_s, heads=heads.double())
