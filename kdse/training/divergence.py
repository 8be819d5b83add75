"""`SkipNonFinite`: a loss or gradient that is not finite never reaches the weights; a run with no other ends."""

from __future__ import annotations

import logging
import math
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from kdse.errors import Diverged
from kdse.run.log import history
from kdse.run.optimizer_settings import use_fused

log = logging.getLogger(__name__)

#: Steps in a row that may be skipped. Our choice: a damaged recording costs one step, or a few in a small corpus; a run
#: whose weights are lost has no finite step any more, and ten of them cost next to nothing.
MAX_STEPS = 10


class SkipNonFinite(L.Callback):
    """Skips optimizer steps whose loss or gradient is not finite, and stops a run that has too many in a row.

    A loss that is not finite makes all gradients NaN, so that every process of a run sees it in what they share. The
    optimizer then has no gradients: weights and its state stay as they are. So do running statistics (batch norm) that
    the batch made NaN. Such a step counts as one of the run; the log has their number as ``train/skipped_steps``.

    A gradient scaler (precision 16-mixed) overflows and skips by design, with a smaller scale after each: its steps
    count once the scale is 1 or less, where overflow is the gradient's own. A run also ends here if its last step was
    skipped and the validation after it has no finite loss. No checkpoint gets weights that are not finite.

    Reading a value on an accelerator waits for all work that is queued there. So there the optimizer is fused
    where it can be (`kdse.run.optimizer_settings.use_fused`), and leaves a step out by itself; the numbers are kept
    on the device and read at logging steps, at checkpoints and at the end. Weights and state of the optimizer are the
    same as if every step were looked at; the warning, the log's entry and the end of a run come up to
    ``log_every_n_steps`` later, and steps in a row that a finite one ends in between do not end the run. Every step is
    looked at with an optimizer that cannot be fused, with a gradient scaler (which does so itself), and with a strategy
    that shares out parameters.

    Args:
        run_dir: the run folder, whose validations are read.
        max_steps: steps in a row that are skipped before the run stops; 0 stops at the first.

    Raises:
        Diverged: where the run stops.
    """

    def __init__(self, run_dir: str | Path, max_steps: int = MAX_STEPS) -> None:
        super().__init__()
        self.run_dir, self.max_steps = Path(run_dir), max_steps
        self.skipped = self.in_a_row = 0
        self._places: list[tuple[torch.nn.Module, str]] = []  # of statistics, which training moves by itself
        self._counts: Tensor | None = None  # `skipped` and `in_a_row`, where they are kept on an accelerator
        self._lasting = torch.zeros(0)  # what of the two a finite step leaves
        self._told = 0  # `skipped` at the last report
        self._before: tuple[int, Tensor] = (-1, torch.zeros(0))  # optimizer steps, and the statistics then

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        saved = pl_module.state_dict().keys()
        names = [n for n, buffer in pl_module.named_buffers() if n in saved and buffer.is_floating_point()]
        self._places = [(pl_module.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in names]
        alike = trainer.world_size == 1 or isinstance(trainer.strategy, DDPStrategy)  # all have the same gradients
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        late = not reading_is_free(pl_module.device) and alike and scaler is None
        fused = all([use_fused(optimizer) for optimizer in trainer.optimizers])  # (faster on a CPU too)
        if late and fused:
            self._counts, self._lasting = torch.tensor([[self.skipped, self.in_a_row], [1, 0]], device=pl_module.device)
            self._told = self.skipped

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._places and trainer.global_step != self._before[0]:
            self._before = trainer.global_step, torch.cat([s.reshape(-1) for s in self._statistics()])

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if loss.requires_grad:
            loss.register_hook(partial(_nan_unless_finite, loss.detach()))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # (of the largest value: a sum of squares overflows)
        largest = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None], math.inf)
        if self._counts is not None:
            self._leave_out(optimizer, ~largest.isfinite())
            if (trainer.global_step + 1) % max(1, getattr(trainer, "log_every_n_steps", 1)) == 0:
                self._read(trainer, trainer.global_step + 1)
            return
        # (asked of all: a strategy that shares out parameters gives each process some of the gradients)
        if trainer.strategy.reduce_boolean_decision(bool(largest.isfinite())):
            self.in_a_row = 0
            return
        self._restore_statistics(torch.ones_like(largest, dtype=torch.bool))
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None:
            for parameter in parameters:
                parameter.grad = None
        elif scaler.get_scale() > 1:
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        self._report(trainer, trainer.global_step + 1)

    def _leave_out(self, optimizer: torch.optim.Optimizer, broken: Tensor) -> None:
        """Skips and counts a step that is ``broken``, a boolean scalar on the device, without looking at it."""
        assert self._counts is not None
        optimizer.found_inf = broken.float()  # type: ignore[attr-defined]  # (as a gradient scaler sets it)
        self._counts = torch.where(broken, self._counts + 1, self._counts * self._lasting)
        self._restore_statistics(broken)

    def _read(self, trainer: L.Trainer, step: int) -> None:
        """Takes the numbers from the device, if they are kept there, and reports what is new by this step."""
        if self._counts is None:
            return
        self.skipped, self.in_a_row = self._counts.tolist()
        if self.skipped > self._told:
            self._told = self.skipped
            self._report(trainer, step)

    def _report(self, trainer: L.Trainer, step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"train/skipped_steps": self.skipped}, step=step - 1)
        if self.in_a_row > self.max_steps:
            raise Diverged(self._message(step))
        if self._counts is not None:
            log.warning("steps skipped up to optimizer step %d, for a loss or gradient that is not finite: %d",
                        step, self.skipped)  # fmt: skip
        elif self.in_a_row == 1:
            log.warning("optimizer step %d is skipped: its loss or gradient is not finite", step)

    def _statistics(self) -> list[Tensor]:
        return [getattr(module, name).detach() for module, name in self._places]

    def _restore_statistics(self, broken: Tensor) -> None:
        """Where the step is ``broken`` and statistics are not finite, takes those before it; looks at nothing."""
        if not self._places:
            return
        parts = self._statistics()
        now = torch.cat([part.reshape(-1) for part in parts])
        kept = torch.where(broken & ~now.isfinite().all(), self._before[1], now)
        for statistic, value in zip(parts, kept.split([part.numel() for part in parts]), strict=True):
            statistic.copy_(value.view_as(statistic))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._read(trainer, trainer.global_step)
        for name, value in checkpoint["state_dict"].items():
            if isinstance(value, Tensor) and not bool(value.isfinite().all()):
                raise Diverged(
                    f"diverged: {name} is not finite after optimizer step {trainer.global_step}; {self._fix}"
                )

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._read(trainer, trainer.global_step)
        step = trainer.global_step
        if self.in_a_row and trainer.is_global_zero and step not in history(self.run_dir, "val/loss"):
            raise Diverged(self._message(step))

    def _message(self, step: int) -> str:
        return (
            f"diverged: the loss or a gradient was not finite in the last {self.in_a_row} of {step} optimizer steps "
            f"(--max_nonfinite_steps is {self.max_steps}); {self._fix}"
        )

    @property
    def _fix(self) -> str:
        return f"the checkpoints in {self.run_dir} are finite; start anew with a lower learning rate or lower weights"

    def state_dict(self) -> dict[str, Any]:
        if self._counts is not None:
            self.skipped, self.in_a_row = self._counts.tolist()
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = int(state_dict["skipped"]), int(state_dict["in_a_row"])


def reading_is_free(device: torch.device) -> bool:
    """Whether a value can be looked at without waiting for a device."""
    return device.type == "cpu"


def _nan_unless_finite(loss: Tensor, gradient: Tensor) -> Tensor:
    return gradient * torch.where(loss.isfinite(), 1.0, math.nan).to(gradient.dtype)
