"""Gradients of a step: the mean over accumulated batches, and balanced norms of the loss terms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdse.distributed import world_size
from kdse.errors import UserError

FLOOR = 1e-12


class GradientBalance:
    """Factors that bring the gradient norms of all terms to that of the reference term.

    With the moving averages ``n_k`` of the norms of ``d raw_k / d student``, the total becomes
    ``sum_k w_k (n_ref / n_k) raw_k``: weights then are ratios of gradient norms, whatever the scale of each term. The
    reference is the supervised loss where it is active, else the first active term. (After the loss balancer of
    EnCodec, Defossez et al. 2022, which balances gradients at the model's output, where features have none.)

    A measurement costs one backward pass a term, so it is repeated every ``every`` steps only. A batch in which a term
    has no finite gradient does not count for it; nor do heads. Under DDP the mean of the squared norms over processes
    is used.

    Args:
        every: optimizer steps between measurements.
        decay: of the moving average, per measurement.
    """

    def __init__(self, every: int = 10, decay: float = 0.9) -> None:
        if every < 1 or not 0 <= decay < 1:
            raise UserError(f"balance_every={every}, decay={decay}: at least 1, and in [0, 1)")
        self.every, self.decay = every, decay
        self.norms: dict[str, float] = {}
        self._measured = -1

    def factors(
        self, terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter], step: int, reference: str
    ) -> dict[str, float]:
        """Factor of every term; measures first where that is due.

        Args:
            terms: raw values by name, with their graphs (which are kept).
            parameters: the student's.
            step: optimizer steps taken so far.
            reference: the term whose factor is 1.
        """
        due = step % self.every == 0 and step != self._measured  # once a step, however many micro-batches it has
        wanted = [p for p in parameters if p.requires_grad]
        for name in [name for name in terms if due or name not in self.norms]:
            norm = _gradient_norm(terms[name], wanted)
            if not FLOOR < norm < math.inf:
                continue  # nothing to learn from in this batch (no labels, say), or an overflow: keep what is known
            old = self.norms.get(name)
            self.norms[name] = norm if old is None else self.decay * old + (1 - self.decay) * norm
        self._measured = step
        base = self.norms.get(reference)
        return {name: base / self.norms[name] if base and name in self.norms else 1.0 for name in terms}

    def state_dict(self) -> dict[str, Any]:
        return {"norms": dict(self.norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.norms = {str(k): float(v) for k, v in state.get("norms", {}).items()}


def _gradient_norm(value: Tensor, parameters: list[nn.Parameter]) -> float:
    squared = value.new_zeros(())
    if value.requires_grad:
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        squared = torch.stack([g.float().square().sum() for g in gradients if g is not None] or [squared]).sum()
    if world_size() > 1:
        dist.all_reduce(squared)
        squared = squared / world_size()
    return float(squared.sqrt())


def connected(total: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """A loss joined with parameters that it does not depend on, by terms that are zero by shape.

    (Not by 0 x value: 0 x inf is NaN.) Their gradient is then zero and not missing, which plain DDP asks for.
    """
    for parameter in parameters:
        total = total + parameter.reshape(-1)[:0].sum()
    return total


def window_factor(trainer: L.Trainer, batch_idx: int) -> float:
    """What a batch's loss is multiplied by so that its optimizer step takes the mean over its batches.

    Lightning divides every loss by ``accumulate_grad_batches``, and steps at the end of an epoch with what there is:
    such a step would pull less than the others, by the share of batches that it lacks. 1 for whole windows, and where
    the length of an epoch is unknown. ``batch_idx`` counts the batches of the epoch.
    """
    window, batches = trainer.accumulate_grad_batches, trainer.num_training_batches
    if window == 1 or not math.isfinite(batches) or trainer.strategy.handles_gradient_accumulation:
        return 1.0
    left = batches - (batch_idx - batch_idx % window)
    return float(window / min(window, left))
