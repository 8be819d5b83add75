"""Several supervised losses at once."""

from __future__ import annotations

from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.base import Estimate


class WeightedSum(nn.Module):
    """``sum_i weight_i loss_i``; the parts are kept in `parts` after each call, by name, for logging.

    Args:
        losses: name to loss module.
        weights: name to factor; a name left out weighs 1.
    """

    def __init__(self, losses: dict[str, nn.Module], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        weights = weights or {}
        unknown = sorted(set(weights) - set(losses))
        if not losses or unknown:
            raise UserError(f"weights name {unknown}, but the losses are {sorted(losses)}; give one or more losses")
        self.losses = nn.ModuleDict(losses)
        self.weights = {name: float(weights.get(name, 1.0)) for name in losses}
        self.parts: dict[str, Tensor] = {}

    def forward(self, estimate: Estimate, clean: Tensor, noisy: Tensor) -> Tensor:
        values = {name: loss(estimate, clean, noisy) for name, loss in self.losses.items()}
        self.parts = {name: value.detach() for name, value in values.items()}
        total = noisy.new_zeros(())
        for name, value in values.items():
            total = total + self.weights[name] * value
        return total
