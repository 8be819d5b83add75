"""Schedules: weights of the loss terms as a pure function of the optimizer step, and the callbacks that apply them.

A schedule is a list of `Phase`s: `TwoStep` is two of them, `Joint` is one. A weight of zero means that the term is
*not computed*. A step is an optimizer step, so gradient accumulation does not move a switch.
"""

from __future__ import annotations

import bisect
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L

from kdse.errors import UserError, require_one_of, require_positive

log = logging.getLogger(__name__)

SUPERVISED = "supervised"
EVERY_OBJECTIVE = "*"
#: Share of a `TwoStep` run that is distillation alone, if nothing is said: 100 of 400 epochs in the paper.
DISTIL_FRACTION = 0.25


@dataclass
class Phase:
    """One phase of training. Give it one of steps, epochs, fraction; the last phase may leave all three out.

    Args:
        weights: term to weight; "supervised" is the supervised loss, "*" every objective not named. Terms that are
            not mentioned are off.
        steps: length in optimizer steps.
        epochs: length in epochs.
        fraction: length as a share of the whole run, between 0 and 1.
        ramp: how weights move from the phase before: "none" (at once), "linear" or "cosine" over `ramp_steps`.
        ramp_steps: length of the ramp in optimizer steps; None means the whole phase.
        learning_rate: learning rate of this phase; None keeps the optimizer's own.
        reset_optimizer: forget the optimizer's state (moments) when the phase begins.
    """

    weights: dict[str, float] = field(default_factory=dict)
    steps: int | None = None
    epochs: float | None = None
    fraction: float | None = None
    ramp: str = "none"
    ramp_steps: int | None = None
    learning_rate: float | None = None
    reset_optimizer: bool = False

    def __post_init__(self) -> None:
        given = [k for k in ("steps", "epochs", "fraction") if getattr(self, k) is not None]
        if len(given) > 1:
            raise UserError(
                f"schedule: a phase has both {given[0]} and {given[1]}; give one of steps, epochs, fraction"
            )
        for name in given:
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"schedule: a phase of {name}={getattr(self, name)} is impossible; give zero or more")
        if self.fraction is not None and self.fraction > 1:
            raise UserError(
                f"schedule: a phase of fraction={self.fraction} is longer than the run; give 0 to 1 (distil_fraction)"
            )
        if self.ramp_steps is not None and self.ramp_steps < 0:
            raise UserError(f"schedule: ramp_steps={self.ramp_steps} is impossible; give zero or more")
        require_one_of("schedule: ramp", self.ramp, "none", "linear", "cosine")
        if any(not (w >= 0 and math.isfinite(w)) for w in self.weights.values()):
            raise UserError(f"schedule: weights must be finite and zero or more, got {self.weights}")
        if self.learning_rate is not None:
            require_positive(**{"schedule: learning_rate": self.learning_rate})

    def weight(self, term: str) -> float:
        """Weight of a term at the end of this phase's ramp."""
        if term in self.weights:
            return float(self.weights[term])
        return 0.0 if term == SUPERVISED else float(self.weights.get(EVERY_OBJECTIVE, 0.0))


def phase_starts(phases: Sequence[Phase], total_steps: float, steps_per_epoch: float | None) -> list[int]:
    """The optimizer step at which each phase begins; only the last may be open-ended.

    Args:
        phases: in order.
        total_steps: optimizer steps of the whole run (math.inf if unknown), needed for fractions.
        steps_per_epoch: optimizer steps an epoch (None if unknown), needed for epochs.
    """
    starts = [0]
    for number, phase in enumerate(phases[:-1]):
        if phase.steps is not None:
            length = phase.steps
        elif phase.epochs is not None:
            if steps_per_epoch is None:
                raise UserError("schedule: epochs need a training set of known length; give steps instead")
            length = round(phase.epochs * steps_per_epoch)
        elif phase.fraction is not None:
            if not math.isfinite(total_steps):
                raise UserError(
                    "schedule: a fraction needs a run of known length; set trainer.max_steps or trainer.max_epochs, "
                    "or give the phase in steps"
                )
            length = round(phase.fraction * total_steps)
        else:
            raise UserError(f"schedule: phase {number} has no length; only the last phase may be open-ended")
        starts.append(starts[-1] + length)
    return starts


def phase_weights(phases: Sequence[Phase], starts: Sequence[int], step: int, terms: Sequence[str]) -> dict[str, float]:
    """Schedule weight of every term at an optimizer step: a pure function, so resuming anywhere gives the same run."""
    current = bisect.bisect_right(starts, step) - 1
    phase = phases[current]
    target = {term: phase.weight(term) for term in terms}
    if phase.ramp == "none" or current == 0:
        return target
    length = phase.ramp_steps
    if length is None:
        if current + 1 >= len(starts):
            return target
        length = starts[current + 1] - starts[current]
    if length <= 0:
        return target
    position = min(1.0, (step - starts[current] + 1) / length)
    if phase.ramp == "cosine":
        position = 0.5 - 0.5 * math.cos(math.pi * position)
    before = {term: phases[current - 1].weight(term) for term in terms}
    return {term: before[term] + (target[term] - before[term]) * position for term in terms}


class Schedule(L.Callback):
    """Base of all schedules: resolves the phases once, stores the result, answers `weights(step)`.

    Args:
        phases: the phases in order; see `Phase`.
        accept_new_switch: resume although the phases now switch at other steps than the checkpoint stored (after
            raising max_steps, say); the new ones are used.
    """

    def __init__(self, phases: list[Phase], accept_new_switch: bool = False) -> None:
        super().__init__()
        if not phases:
            raise UserError("schedule: at least one phase is needed")
        self.phases = phases
        self.accept_new_switch = accept_new_switch
        self.starts: list[int] | None = None
        self._stored_starts: list[int] | None = None

    def weights(self, step: int, terms: Sequence[str]) -> dict[str, float]:
        """Weight of every term (``"supervised"`` and the objectives' names) at an optimizer step."""
        if self.starts is None:
            raise UserError("schedule: not resolved yet; the lengths of phases are known once fit has started")
        return phase_weights(self.phases, self.starts, step, terms)

    def phase_index(self, step: int) -> int:
        """Which phase an optimizer step belongs to, counted from 0."""
        assert self.starts is not None
        return bisect.bisect_right(self.starts, step) - 1

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        if not hasattr(pl_module, "schedule"):
            raise UserError(
                f"schedule: {type(pl_module).__name__} has no teacher; use `model.class_path: kdse.Distiller`, "
                "or leave out --schedule"
            )
        pl_module.schedule = self

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.lr_scheduler_configs and any(p.learning_rate is not None for p in self.phases):
            raise UserError(
                "schedule: a phase sets its own learning rate and --model.lr_scheduler sets it too; drop one of them"
            )
        self.starts = self._resolve(trainer)
        if self._stored_starts is not None and self._stored_starts != self.starts:
            message = (
                f"schedule: this run would switch phases at steps {self.starts[1:]}, the checkpoint's run at "
                f"{self._stored_starts[1:]} (trainer.max_steps or the data changed?)"
            )
            if not self.accept_new_switch:
                raise UserError(
                    f"{message}; restore the old settings, or accept the new switch with "
                    "--schedule.accept_new_switch=true"
                )
            log.warning("%s; the new ones are used (accept_new_switch)", message)
        for number, (phase, start) in enumerate(zip(self.phases, self.starts, strict=True)):
            log.info("schedule: phase %d starts at optimizer step %d with weights %s", number, start, phase.weights)

    def _resolve(self, trainer: L.Trainer) -> list[int]:
        if all(p.fraction is None and p.epochs is None for p in self.phases[:-1]):
            return phase_starts(self.phases, math.inf, None)
        total = float(trainer.estimated_stepping_batches)  # (makes the loader, which the next line counts)
        batches = trainer.num_training_batches
        known = math.isfinite(batches)
        return phase_starts(self.phases, total, math.ceil(batches / trainer.accumulate_grad_batches) if known else None)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self.starts is not None
        step = trainer.global_step
        phase = self.phases[self.phase_index(step)]
        own_rates = any(p.learning_rate is not None for p in self.phases)
        for group in (group for o in trainer.optimizers for group in o.param_groups):
            base = group.setdefault("kdse_base_lr", group["lr"])  # (saved with the optimizer, for a resume)
            if own_rates:
                group["lr"] = base if phase.learning_rate is None else phase.learning_rate
        first_micro_batch = batch_idx % trainer.accumulate_grad_batches == 0
        if phase.reset_optimizer and step > 0 and step in self.starts and first_micro_batch:
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
            log.info("schedule: optimizer state reset at step %d", step)

    def state_dict(self) -> dict[str, Any]:
        return {"starts": list(self.starts) if self.starts is not None else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._stored_starts = state_dict.get("starts")

    @property
    def state_key(self) -> str:
        return "kdse.Schedule"


class TwoStep(Schedule):
    """Distil first, then train with clean speech (Two-Step KD, arXiv 2309.08144, section 1.3 there: gamma = 1, then 0).

    Args:
        distil_fraction: share of the run spent on distillation alone. None is 0.25 (the paper: 100 of 400 epochs)
            unless one of the next two is given.
        distil_steps: the same in optimizer steps, instead of the fraction.
        distil_epochs: the same in epochs, instead of the fraction.
        gamma: weight of every objective in the second step, 1 - gamma going to the supervised loss: 0 is the
            paper's best, 0.5 its other variant.
        reset_optimizer: forget Adam's moments at the switch. The paper is silent; off is our choice.
        distil_learning_rate: learning rate of the first step; None keeps the optimizer's.
        supervised_learning_rate: learning rate of the second step; None keeps the optimizer's.
        accept_new_switch: resume although the switch now falls on another step than the checkpoint stored.
    """

    def __init__(
        self,
        distil_fraction: float | None = None,
        distil_steps: int | None = None,
        distil_epochs: float | None = None,
        gamma: float = 0.0,
        reset_optimizer: bool = False,
        distil_learning_rate: float | None = None,
        supervised_learning_rate: float | None = None,
        accept_new_switch: bool = False,
    ) -> None:
        _check_gamma(gamma)
        lengths = {"distil_fraction": distil_fraction, "distil_steps": distil_steps, "distil_epochs": distil_epochs}
        given = [name for name, length in lengths.items() if length is not None]
        if len(given) > 1:
            raise UserError(f"schedule: {' and '.join(given)} are given, not both can hold; set one of them to null")
        first = Phase(
            weights={EVERY_OBJECTIVE: 1.0},
            steps=distil_steps,
            epochs=distil_epochs,
            fraction=distil_fraction if given else DISTIL_FRACTION,
            learning_rate=distil_learning_rate,
        )
        second = Phase(
            weights={SUPERVISED: 1.0 - gamma, EVERY_OBJECTIVE: gamma},
            learning_rate=supervised_learning_rate,
            reset_optimizer=reset_optimizer,
        )
        super().__init__([first, second], accept_new_switch)


class Joint(Schedule):
    """One-step KD: gamma x every objective + (1 - gamma) x supervised, throughout.

    Args:
        gamma: weight of every objective; 1 - gamma goes to the supervised loss. The two-step paper uses 0.5.
    """

    def __init__(self, gamma: float = 0.5) -> None:
        _check_gamma(gamma)
        super().__init__([Phase(weights={SUPERVISED: 1.0 - gamma, EVERY_OBJECTIVE: gamma})])


class Phases(Schedule):
    """Any list of phases, with ramps between them."""


def _check_gamma(gamma: float) -> None:
    if not 0.0 <= gamma <= 1.0:
        raise UserError(f"schedule: gamma={gamma} must lie between 0 and 1")
