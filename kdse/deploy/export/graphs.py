"""One hop of a streaming student as a function of tensors alone: what the step files hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdse.deploy.export.spectrum import from_pair, real_spectra, to_pair
from kdse.models.base import SpeechModel
from kdse.models.stft import HOST_STATES, Stft
from kdse.models.streaming import can_stream


class Step(nn.Module):
    """``step(audio [B, hop], *states) -> (enhanced [B, hop], *next states)``, without complex tensors.

    Args:
        model: a student that streams.
    """

    audio_in, audio_out = "audio", "enhanced"

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model.eval()
        self.names = list(self.first_states(1))

    def forward(self, audio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        with real_spectra(self.model):
            enhanced, new = self.model.step(audio, dict(zip(self.names, states, strict=True)))
        return enhanced, *(new[name] for name in self.names)

    def first_states(self, batch: int) -> dict[str, Tensor]:
        """The states before the first hop, in the order of the arguments."""
        return self.model.initial_state(batch)

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Arguments of the right shapes."""
        return torch.zeros(batch, self.model.hop_samples), *self.first_states(batch).values()

    @property
    def input_names(self) -> list[str]:
        return [self.audio_in, *(f"state.{name}" for name in self.names)]

    @property
    def output_names(self) -> list[str]:
        return [self.audio_out, *(f"next.{name}" for name in self.names)]


class SpectrumStep(Step):
    """`Step` without the STFT: ``(spectrum [B, F, 2], *states) -> (enhanced_spectrum [B, F, 2], *next states)``.

    The last axis is real and imaginary part of one frame. Who runs it frames the audio and overlaps and adds.
    """

    audio_in, audio_out = "spectrum", "enhanced_spectrum"

    def forward(self, audio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        with real_spectra(model):
            before = dict(zip(self.names, states, strict=True))
            enhanced, new = model.step_spectrum(to_pair(audio[:, :, None]), before)
        return from_pair(enhanced)[:, :, 0], *(new[name] for name in self.names)

    def first_states(self, batch: int) -> dict[str, Tensor]:
        return {k: v for k, v in self.model.initial_state(batch).items() if k not in HOST_STATES}

    def example(self, batch: int) -> tuple[Tensor, ...]:
        stft: Any = self.model.stft
        return torch.zeros(batch, stft.bins, 2), *self.first_states(batch).values()


def step_graph(model: SpeechModel, stft: str) -> Step:
    """The graph of one hop, with the STFT "inside" or "outside" of it.

    Raises:
        ValueError: if the model does not stream, or has no STFT to leave out.
    """
    if not can_stream(model):
        raise ValueError(
            f"{'--streaming' if stft == 'inside' else '--stft outside'}: {type(model).__name__} cannot run hop by hop: "
            f"{_obstacle(model)}; --whole, with the STFT inside, exports it for whole signals"
        )
    if stft == "inside":
        return Step(model)
    if stft != "outside":
        raise ValueError(f'--stft {stft}: use "inside" or "outside"')
    if not isinstance(getattr(model, "stft", None), Stft) or not hasattr(model, "step_spectrum"):
        raise ValueError(f"--stft outside: {type(model).__name__} has no STFT that could stay outside; leave it out")
    return SpectrumStep(model)


def _obstacle(model: SpeechModel) -> str:
    if model.causal:
        return "it has no `step`"
    return "its output depends on samples that come later (it is not causal)"
