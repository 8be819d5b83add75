"""Graphs: a student as a function of tensors alone, without complex ones. This is what exported files hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdse.deploy.export.spectrum import from_pair, real_spectra, to_pair
from kdse.errors import UserError
from kdse.models.base import SpeechModel
from kdse.models.stft import HOST_STATES
from kdse.models.streaming import can_stream


@dataclass(frozen=True)
class Port:
    """One input or output of a file; a text instead of a size is an axis of any length."""

    name: str
    shape: list[int | str]
    dtype: str


class Graph(nn.Module):
    """Base of `Step`, `SpectrumStep` and `WholeSignal`: ``(signal, *states) -> (enhanced signal, *next states)``.

    Args:
        model: the student; it is put in eval mode.
    """

    #: As in the metadata: "step" or "whole", the STFT "inside" or "outside", names of the signals in and out.
    kind, stft = "step", "inside"
    signals = ("audio", "enhanced")

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model.eval()
        self.names = list(self.first_states(1))

    def first_states(self, batch: int) -> dict[str, Tensor]:
        """The states before the first hop, in the order of the arguments."""
        return {}

    def example(self, batch: int = 1) -> tuple[Tensor, ...]:
        """Arguments of the right shapes."""
        raise NotImplementedError

    def dynamic_shapes(self) -> Any:
        """Open sizes, as `torch.export.export` takes them; None for the shapes of the example."""
        return None

    @property
    def input_names(self) -> list[str]:
        return [self.signals[0], *(f"state.{name}" for name in self.names)]

    @property
    def output_names(self) -> list[str]:
        return [self.signals[1], *(f"next.{name}" for name in self.names)]

    def ports(self, names: list[str]) -> list[Port]:
        """The inputs or outputs of a file, given their names."""
        return [
            Port(name, list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in zip(names, self.example(), strict=True)
        ]


class Step(Graph):
    """One hop: ``(audio [B, hop], *states) -> (enhanced [B, hop], *next states)``."""

    def forward(self, audio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        with real_spectra(self.model):
            enhanced, new = self.model.step(audio, dict(zip(self.names, states, strict=True)))
        return enhanced, *(new[name] for name in self.names)

    def first_states(self, batch: int) -> dict[str, Tensor]:
        return self.model.initial_state(batch)

    def example(self, batch: int = 1) -> tuple[Tensor, ...]:
        return torch.zeros(batch, self.model.hop_samples), *self.first_states(batch).values()


class SpectrumStep(Graph):
    """`Step` without the STFT: ``(spectrum [B, F, 2], *states) -> (enhanced_spectrum [B, F, 2], *next states)``.

    The last axis is real and imaginary part of one frame. Who runs it frames the audio and overlaps and adds.
    """

    stft = "outside"
    signals = ("spectrum", "enhanced_spectrum")

    def forward(self, audio: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        with real_spectra(self.model):
            before = dict(zip(self.names, states, strict=True))
            enhanced, new = self.model.step_spectrum(to_pair(audio[:, :, None]), before)
        return from_pair(enhanced)[:, :, 0], *(new[name] for name in self.names)

    def first_states(self, batch: int) -> dict[str, Tensor]:
        return {k: v for k, v in self.model.initial_state(batch).items() if k not in HOST_STATES}

    def example(self, batch: int = 1) -> tuple[Tensor, ...]:
        assert self.model.front_end is not None
        return torch.zeros(batch, self.model.front_end.bins, 2), *self.first_states(batch).values()


class WholeSignal(Graph):
    """The forward pass: ``audio [batch, samples] -> enhanced [batch, samples]``.

    Batch and samples are open; the host fills signals shorter than the model's `shortest_samples` with zeros behind
    their end.
    """

    kind = "whole"

    def forward(self, audio: Tensor) -> Tensor:
        with real_spectra(self.model):
            return self.model(audio).waveform

    def example(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Signals of half a second and a bit (sizes that are no one's multiple)."""
        generator = torch.Generator().manual_seed(0)
        samples = max(self.model.sample_rate_hz // 2 + 7, 2 * self.model.shortest_samples + 1)
        return (0.1 * torch.randn(batch, samples, generator=generator),)

    def dynamic_shapes(self) -> Any:
        from torch.export import Dim

        return {"audio": {0: Dim("batch"), 1: Dim("samples", min=self.model.shortest_samples)}}

    def ports(self, names: list[str]) -> list[Port]:
        return [Port(name, ["batch", "samples"], "float32") for name in names]


def graph_of(model: SpeechModel, streaming: bool = True, stft: str = "inside", flag: str | None = None) -> Graph:
    """The graph of a student: one hop, with the STFT "inside" or "outside" of it, or whole signals.

    Args:
        flag: what else than "--streaming" or "--stft outside" asks for one hop, for the error.

    Raises:
        ValueError: if one hop is wanted of a model that does not stream, or has no STFT to leave out.
    """
    if not streaming:
        return WholeSignal(model)
    name = type(model).__name__
    if not can_stream(model):
        why = "it has no `step`" if model.causal else "its output depends on samples that come later (it is not causal)"
        fix = "leave it out" if flag else "--whole, with the STFT inside, exports it for whole signals"
        flag = flag or ("--streaming" if stft == "inside" else "--stft outside")
        raise UserError(f"{flag}: {name} cannot run hop by hop: {why}; {fix}")
    if stft == "inside":
        return Step(model)
    if model.front_end is None or type(model).step_spectrum is SpeechModel.step_spectrum:
        raise UserError(f"--stft outside: {name} has no STFT that could stay outside; leave it out")
    return SpectrumStep(model)
