"""Whole signals as a function of tensors alone: ``audio [batch, samples] -> enhanced [batch, samples]``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdse.deploy.export.spectrum import real_spectra
from kdse.models.base import SpeechModel
from kdse.models.manner import Manner


class WholeSignal(nn.Module):
    """The forward pass of a model, without complex tensors, for files of whole signals of any length.

    Batch and samples are open in every format and for every family of kdse; the shortest signal that a file must take
    is `minimum_samples`.

    Args:
        model: the model; it is put in eval mode.
    """

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, audio: Tensor) -> Tensor:
        with real_spectra(self.model):
            return self.model(audio).waveform

    @property
    def minimum_samples(self) -> int:
        """Length that a graph needs at least; the host fills shorter signals with zeros behind their end.

        Two for most: exporters take a size of one for a constant. Manner's graph has no case for signals that do not
        fill its deepest layer, where the model itself adds zeros (597 samples or more, 37 ms, with published strides).
        """
        return self.model.padded_samples(1) + 1 if isinstance(self.model, Manner) else 2

    def example(self) -> tuple[Tensor]:
        """Arguments of the right shapes: two signals of half a second and a bit (sizes that are no one's multiple)."""
        generator = torch.Generator().manual_seed(0)
        samples = max(self.model.sample_rate_hz // 2 + 7, 2 * self.minimum_samples + 1)
        return (0.1 * torch.randn(2, samples, generator=generator),)

    def dynamic_shapes(self) -> dict[str, Any]:
        """As `torch.export.export` wants them."""
        from torch.export import Dim

        return {"audio": {0: Dim("batch"), 1: Dim("samples", min=self.minimum_samples)}}
