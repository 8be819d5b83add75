"""What kdse uses of Optuna beyond its public API. All of it was last checked with 5.0.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdse.internals.library import Library

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

OPTUNA = Library("optuna", "5.0", "optuna>=5,<6")


def taken_up(study: Study, trial: FrozenTrial) -> Trial:
    """A running trial of another process, to go on with: made from its id in the storage (``_trial_id``)."""
    from optuna.trial import Trial

    return Trial(study, OPTUNA.get(trial, "_trial_id"))


def queued_values(trial: FrozenTrial) -> dict[str, Any]:
    """Values with which ``study.enqueue_trial`` queued a trial, by parameter; empty for one that was drawn.

    ``trial.params`` has a value only once it has been drawn.
    """
    values: dict[str, Any] = OPTUNA.get(trial, "system_attrs").get("fixed_params", {})
    return values
