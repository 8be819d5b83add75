"""`Recorded`: a teacher whose output comes with the data."""

from __future__ import annotations

from torch import Tensor

from kdse.errors import UserError
from kdse.models.base import Estimate, SpeechModel


class Recorded(SpeechModel):
    """A folder of already enhanced files teaches: any closed system will do, and no teacher network runs.

    The data module reads the files (``--data.teacher_folder``) and cuts them at the samples of the noisy ones. Only
    objectives on the output can be used, and the student must be given by `model.student`.

    Args:
        sample_rate_hz: rate of the recordings.
    """

    brings_weights = True

    def __init__(self, sample_rate_hz: int = 16000) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz

    def estimate(self, taught: Tensor | None) -> Estimate:
        """What the batch brought ``[B, N]`` as an estimate.

        Raises:
            ValueError: if it brought nothing.
        """
        if taught is None:
            raise UserError("a recorded teacher needs enhanced files with the data: give --data.teacher_folder")
        return Estimate(taught)

    def forward(self, noisy: Tensor) -> Estimate:
        raise UserError("a recorded teacher cannot enhance: its output comes with the data (--data.teacher_folder)")
