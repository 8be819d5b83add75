"""Vectors of activations: taken out of ``[B, C, T, F]``, and brought to unit length with a finite gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Activations whose rms (or peak, where stated) lies below this count as silence where an objective divides by a norm:
#: they fade to zero instead of being blown up to unit length. Our choice; no paper says.
SILENCE = 1e-5
#: Added to squared norms and variances under a root. Far under any active layer, far above float32 rounding.
FLOOR = 1e-8


def frame_vectors(x: Tensor) -> Tensor:
    """``[B, C, T, F]`` to one vector a frame, ``[B, T, C F]``."""
    return x.transpose(1, 2).flatten(2)


def unit(x: Tensor) -> Tensor:
    """Vectors ``[..., D]`` at unit length; those below `SILENCE` rms fade to zero, with a finite gradient."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(SILENCE * x.shape[-1] ** 0.5)


def soft_unit(x: Tensor) -> Tensor:
    """Vectors ``[..., D]`` over ``sqrt(norm^2 + FLOOR)``; zero stays zero with a finite gradient."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + FLOOR)


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers with a ReLU between."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
