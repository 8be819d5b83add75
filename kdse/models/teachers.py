"""`Teachers`: several teachers as one, and the target that their outputs make together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, require_one_of
from kdse.models.aligned import build_inner
from kdse.models.base import Estimate, SpeechModel
from kdse.models.recorded import Recorded

TARGETS = ("mean", "median", "best", "by_agreement", "by_clean")


def combined(outputs: Tensor, target: str, clean: Tensor | None = None, labelled: Tensor | None = None) -> Tensor:
    """One target ``[B, N]`` of the outputs ``[B, T, N]`` of T teachers, which are in time and at one level.

    With x_t the output of teacher t, s clean speech and e_t an error-to-signal ratio of powers:

    - "mean": of the outputs, as the ensembles of Hinton, Vinyals & Dean (2015) are averaged.
    - "median": of every sample; one teacher that fails does not move it. Ours.
    - "best": the output of the largest SI-SDR against s, item by item. Ours.
    - "by_clean": weights ``w_t = (1 - e_t / sum_j e_j) / (T - 1)``, the confidence of Zhang, Chen & Wang ("Confidence-
      aware multi-teacher knowledge distillation", ICASSP 2022), where e_t is the exponential of a teacher's
      cross-entropy. Its place takes ``|x_t - s|^2 / |s|^2``, the exponential of the negative SNR in nepers: ours.
    - "by_agreement": the same weights with the median of the outputs as s; no clean speech is needed. Ours.

    Items without clean speech get the mean where "best" and "by_clean" want it.

    Args:
        outputs: ``[B, T, N]``.
        target: how they are combined.
        clean: ``[B, N]``, zeros for items that have none.
        labelled: which items have clean speech, boolean ``[B]``; None means all that ``clean`` holds.

    Raises:
        ValueError: for another ``target``, or without clean speech where it is needed.
    """
    require_one_of("target", target, *TARGETS)
    mean = outputs.mean(1)
    if target == "mean" or outputs.shape[1] == 1:
        return mean
    if target in ("median", "by_agreement"):
        reference = _median(outputs)
        return reference if target == "median" else _weighted(outputs, reference)
    if clean is None:
        raise UserError(
            f'model.teacher.target="{target}": needs clean speech and this data has none; use "mean", "median" or '
            '"by_agreement"'
        )
    if target == "by_clean":
        chosen = _weighted(outputs, clean)
    else:
        overlap = (outputs * clean[:, None]).sum(-1).square() / outputs.square().sum(-1).clamp_min(1e-12)
        best = overlap.argmax(1)  # (SI-SDR rises with the angle's cosine, and |s| is the same for all)
        chosen = outputs[torch.arange(len(outputs), device=outputs.device), best]
    return chosen if labelled is None else torch.where(labelled.to(mean.device)[:, None], chosen, mean)


def _median(outputs: Tensor) -> Tensor:
    """Median over the teachers; of an even number the mean of the two in the middle."""
    ordered, count = outputs.sort(1).values, outputs.shape[1]
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2


def _weighted(outputs: Tensor, reference: Tensor) -> Tensor:
    """The outputs by their confidence; equal weights where all are without an error."""
    errors = (outputs - reference[:, None]).square().sum(-1) / reference.square().sum(-1, keepdim=True).clamp_min(1e-12)
    total, count = errors.sum(1, keepdim=True), outputs.shape[1]
    weights = torch.where(total > 0, (1 - errors / total.clamp_min(1e-30)) / (count - 1), 1 / count)
    return (weights[..., None] * outputs).sum(1)


class Teachers(SpeechModel):
    """Several teachers at once, live or recorded; students learn from one target that they make together.

    Only objectives on the output can be used, and the student must be given by `model.student`. Each teacher has to be
    in time and at the level of the others: wrap live ones that are not in `kdse.models.Aligned`; `kdse teach` does so.

    Args:
        models: the teachers: {class_path, init_args}, checkpoints of kdse fit, or instances. A `kdse.models.Recorded`
            among them stands for all teachers of the data (``--data.taught_set``).
        target: how their outputs are combined: "mean", "median", "best", "by_agreement" or "by_clean" (see `combined`).
    """

    brings_weights = True

    def __init__(self, models: list[dict[str, Any] | str | SpeechModel], target: str = "mean") -> None:
        super().__init__()
        require_one_of("target", target, *TARGETS)
        self.target = target
        members = [build_inner(model)[0] for model in models]
        if not members:
            raise UserError("Teachers: models is empty; give at least one")
        rates = {model.sample_rate_hz for model in members}
        if len(rates) > 1:
            raise UserError(f"Teachers: work at {sorted(rates)} Hz; wrap them in kdse.models.Aligned with one rate")
        (self.sample_rate_hz,) = rates
        self.members = nn.ModuleList(members)

    def estimate(
        self, noisy: Tensor, taught: Tensor | None, clean: Tensor | None = None, labelled: Tensor | None = None
    ) -> Estimate:
        """The target for ``[B, N]`` as an estimate; ``taught`` is what came with the batch."""
        outputs = []
        for model in self.members:
            if isinstance(model, Recorded):
                outputs.append(model.outputs(taught))
            else:
                outputs.append(model(noisy).waveform[:, None].float())
        return Estimate(combined(torch.cat(outputs, 1), self.target, clean, labelled))

    def forward(self, noisy: Tensor) -> Estimate:
        return self.estimate(noisy, None)
