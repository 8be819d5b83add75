"""Models that do not stream over audio that arrives in pieces: all at once, or in cross-faded chunks."""

from __future__ import annotations

import torch
from torch import Tensor

from kdse.errors import UserError
from kdse.models.base import SpeechModel


class WholeSignal:
    """Collects ``[B, n]`` pieces and runs the model once, at the end. Memory grows with the signal."""

    def __init__(self, model: SpeechModel) -> None:
        self.model = model.eval()
        self._parts: list[Tensor] = []

    def push(self, samples: Tensor) -> Tensor:
        self._parts.append(samples)
        return samples[:, :0]

    def flush(self) -> Tensor:
        signal = torch.cat(self._parts, dim=1)
        self._parts = []
        return _run(self.model, signal) if signal.shape[1] else signal


class CrossFade:
    """Runs the model on overlapping chunks and fades linearly from one result to the next.

    Each chunk of ``chunk_samples`` is enhanced without knowledge of the others, so the result differs from the whole
    signal's unless the signal fits into one chunk. The last chunk reaches back to be as long as the others. Neighbours
    fade into each other over ``overlap_samples``, at most half a chunk.
    """

    def __init__(self, model: SpeechModel, chunk_samples: int, overlap_samples: int) -> None:
        if not 0 < overlap_samples <= chunk_samples // 2:
            raise UserError(f"the overlap of {overlap_samples} samples must be at most half of {chunk_samples}")
        self.model = model.eval()
        self.chunk, self.overlap = chunk_samples, overlap_samples
        self.rise = (torch.arange(overlap_samples) + 0.5) / overlap_samples
        self._restart()

    def _restart(self) -> None:
        self._waiting: Tensor | None = None  # input from the start of the next chunk on
        self._before: Tensor | None = None  # input of the previous chunk
        self._tail: Tensor | None = None  # its last output samples, not yet emitted

    def push(self, samples: Tensor) -> Tensor:
        waiting = samples if self._waiting is None else torch.cat([self._waiting, samples], dim=1)
        outputs = [samples[:, :0]]
        # One chunk is always held back, so that a signal of exactly one chunk is run whole.
        while waiting.shape[1] > self.chunk:
            piece = waiting[:, : self.chunk]
            enhanced = self._join(_run(self.model, piece))
            step = self.chunk - self.overlap
            outputs.append(enhanced[:, :step])
            self._tail, self._before = enhanced[:, step:].clone(), piece.clone()
            waiting = waiting[:, step:]
        self._waiting = waiting.clone()
        return torch.cat(outputs, dim=1)

    def flush(self) -> Tensor:
        if self._waiting is None:
            return torch.zeros(1, 0)
        last, piece = self._waiting, self._waiting
        if self._before is not None and last.shape[1] < self.chunk:
            step = self.chunk - self.overlap
            piece = torch.cat([self._before[:, :step], last], dim=1)[:, -self.chunk :]
        rest = self._join(_run(self.model, piece)[:, -last.shape[1] :]) if last.shape[1] else last
        self._restart()
        return rest

    def _join(self, enhanced: Tensor) -> Tensor:
        if self._tail is None:
            return enhanced
        faded = (1 - self.rise) * self._tail + self.rise * enhanced[:, : self.overlap]
        return torch.cat([faded, enhanced[:, self.overlap :]], dim=1)


@torch.no_grad()
def _run(model: SpeechModel, samples: Tensor) -> Tensor:
    return model(samples.to(model.device)).waveform.cpu()
