"""Any supervised loss with the teacher's output in the place of clean speech."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdse.errors import UserError
from kdse.objectives.base import Exchange, OutputObjective
from kdse.precision import exact


class TaughtLoss(OutputObjective):
    """``loss(student, teacher's waveform, noisy)``: a supervised loss whose target is what the teacher says.

    Training on a teacher's outputs as labels is older than distillation by softened outputs (Bucila, Caruana &
    Niculescu-Mizil, "Model compression", KDD 2006); that any loss of this field can be the distance is ours. The loss
    sees the target as a waveform ``[B, N]`` and makes spectra and masks of it as it does of clean speech, so teacher
    and student may have transforms, masks and rates of frames of their own. No clean speech is needed. Values on
    silence are those of the loss, with a silent target.

    Args:
        loss: called as ``loss(estimate, target [B, N], noisy [B, N])``: one of `kdse.losses`, or of that form.
    """

    def __init__(self, loss: nn.Module, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.criterion = loss

    def loss(self, exchange: Exchange) -> Tensor:
        assert exchange.teacher is not None
        target = exact(exchange.teacher.waveform.detach())
        self.require_equal_shapes(
            target, exchange.student.waveform, "waveform", "both models must return as many samples as they are given"
        )
        self.criterion = self.criterion.to(target.device)
        try:
            value: Tensor = self.criterion(exchange.student, target, exchange.noisy)
        except UserError as error:
            raise UserError(str(error).replace("model.loss", f"objectives.{self.name}.loss")) from None
        return value
