"""`Recorded`: a teacher whose output comes with the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.base import Estimate, SpeechModel, Tap


class Recorded(SpeechModel):
    """A teacher whose outputs come with the data: any closed system can have made them, and no teacher network runs.

    The data module reads it: a set of `kdse teach` (``--data.taught_set``, which names this teacher by itself), or a
    folder of already enhanced files (``--data.teacher_folder``). Only objectives on the output can be used, and those
    on taps that the set stores. The student must be given by `model.student`.

    Args:
        sample_rate_hz: rate of the recordings.
        taps: taps that come with the data: name to ``{shape: [C, T, F], group}``, as in the set's description.
        fixed_samples: length of the items that they are of.
    """

    brings_weights = True

    def __init__(
        self, sample_rate_hz: int = 16000, taps: dict[str, Any] | None = None, fixed_samples: int | None = None
    ) -> None:
        super().__init__()
        self.sample_rate_hz, self.fixed_samples = sample_rate_hz, fixed_samples
        self.stored = {name: dict(tap) for name, tap in (taps or {}).items()}
        self.places = nn.ModuleList(nn.Identity() for _ in self.stored)  # (a tap is at a module)

    def taps(self) -> dict[str, Tap]:
        groups = [tap.get("group", "") for tap in self.stored.values()]
        return {name: Tap(f"places.{i}", group=groups[i]) for i, name in enumerate(self.stored)}

    def shapes(self) -> dict[str, torch.Size]:
        """Shapes ``[1, C, T, F]`` of the taps, as `kdse.taps.probe` measures those of a network."""
        return {name: torch.Size([1, *tap["shape"]]) for name, tap in self.stored.items()}

    def outputs(self, taught: Tensor | None) -> Tensor:
        """What the batch brought, ``[B, N]`` or ``[B, T, N]``, of all T teachers ``[B, T, N]``.

        Raises:
            ValueError: if it brought nothing.
        """
        if taught is None:
            raise UserError(
                "a recorded teacher needs its output with the data: give --data.taught_set (of `kdse teach`) or "
                "--data.teacher_folder"
            )
        return taught if taught.dim() == 3 else taught[:, None]

    def estimate(self, taught: Tensor | None) -> Estimate:
        """What the batch brought ``[B, N]`` as an estimate.

        Raises:
            ValueError: if it brought nothing, or the outputs of several teachers.
        """
        outputs = self.outputs(taught)
        if outputs.shape[1] > 1:
            raise UserError(
                f"model.teacher: the data has the outputs of {outputs.shape[1]} teachers; say how they are combined: "
                "--model.teacher kdse.models.Teachers --model.teacher.models '[{class_path: kdse.models.Recorded}]' "
                "--model.teacher.target mean"
            )
        return Estimate(outputs[:, 0])

    def activations(self, taught_taps: Mapping[str, Tensor] | None, names: set[str]) -> dict[str, Tensor]:
        """Named taps of the batch ``[B, C, T, F]``, in single precision."""
        if names and taught_taps is None:
            raise UserError("a recorded teacher's taps come with the data: give the --data.taught_set that has them")
        return {name: tap.float() for name, tap in (taught_taps or {}).items() if name in names}

    def forward(self, noisy: Tensor) -> Estimate:
        raise UserError("a recorded teacher cannot enhance: its output comes with the data (--data.teacher_folder)")
