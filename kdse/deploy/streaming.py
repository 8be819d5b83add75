"""Streaming: a causal model over audio that arrives in pieces, equal to the model over the whole signal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdse.models.base import SpeechModel


def can_stream(model: SpeechModel) -> bool:
    """Whether a model offers the streaming contract: causal, with its own `initial_state` and `step`."""
    cls = type(model)
    return model.causal and cls.step is not SpeechModel.step and cls.initial_state is not SpeechModel.initial_state


class Streamer:
    """Feeds audio of any chunking through a causal model, hop by hop, and takes its delay out of the result.

    The outputs of all `push` calls and the final `flush`, joined, are ``model(noisy).waveform`` of the joined input:
    as long, aligned in time, the same for any chunking, equal to float32 rounding. Memory does not grow.

    A sample comes out once the hop that completes its last frame is in: at most ``latency_samples`` later
    (``model.latency_samples``). Audio is ``[B, n]`` at the model's sample rate; n may be zero.

    Args:
        model: a causal model with `initial_state` and `step`; it is put in eval mode.
        batch: independent streams side by side (the channels of a file, for example).

    Raises:
        ValueError: if the model does not stream.
    """

    def __init__(self, model: SpeechModel, batch: int = 1) -> None:
        if not can_stream(model):
            raise ValueError(f"{type(model).__name__} does not stream: it is not causal or has no `step`")
        self.model = model.eval()
        self.batch = batch
        self.hop_samples = model.hop_samples
        self.latency_samples = model.latency_samples
        self.delay_samples = model.latency_samples - model.hop_samples
        self.reset()

    def reset(self) -> None:
        """Forgets everything: the next sample is the first of a new signal."""
        with torch.no_grad():
            self._state = self.model.initial_state(self.batch)
        self._waiting = torch.zeros(self.batch, 0, device=self.model.device)
        self._received = 0
        self._emitted = 0
        self._to_drop = self.delay_samples

    @torch.no_grad()
    def push(self, samples: Tensor) -> Tensor:
        """Takes ``[B, n]`` samples, returns the ``[B, m]`` that are ready.

        Raises:
            ValueError: on another batch size, or on NaN or infinite samples (they would stay in the state for good).
        """
        if samples.ndim != 2 or samples.shape[0] != self.batch:
            raise ValueError(f"expected samples [{self.batch}, n], got {list(samples.shape)}")
        if not torch.isfinite(samples).all():
            raise ValueError("the audio holds NaN or infinite samples, which would spoil all that follows")
        self._received += samples.shape[1]
        return self._advance(samples.to(self._waiting))

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Ends the signal: returns the rest ``[B, m]``, so that as much came out as went in, and resets."""
        missing = self._received - self._emitted
        hops = math.ceil((self._waiting.shape[1] + self.delay_samples) / self.hop_samples) if missing else 0
        padding = max(0, hops * self.hop_samples - self._waiting.shape[1])
        rest = self._advance(torch.zeros(self.batch, padding, device=self._waiting.device))[:, :missing]
        self.reset()
        return rest

    def _advance(self, samples: Tensor) -> Tensor:
        waiting = torch.cat([self._waiting, samples], dim=1)
        whole = waiting.shape[1] // self.hop_samples * self.hop_samples
        outputs = []
        for hop in waiting[:, :whole].split(self.hop_samples, dim=1) if whole else ():
            output, self._state = self.model.step(hop, self._state)
            outputs.append(output)
        self._waiting = waiting[:, whole:].clone()
        ready = torch.cat(outputs, dim=1) if outputs else waiting[:, :0]
        dropped = min(self._to_drop, ready.shape[1])
        self._to_drop -= dropped
        self._emitted += ready.shape[1] - dropped
        return ready[:, dropped:]
