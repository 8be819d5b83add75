"""Streaming: a model of bounded look-ahead over audio in pieces, equal to the model over the whole signal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdse.errors import UserError
from kdse.models.base import UNBOUNDED, SpeechModel

#: Largest absolute sample, 120 dB above full scale. Our choice: 16- and 24-bit integers that were not scaled down pass;
#: a lone sample of 1e10 would make a model's running statistics treat hours of speech after it as silence.
LARGEST = 1e6

#: Hops that a model with `many_hops` is given at once where as many are there. Our choice: the 62k CRUSE takes a tenth
#: of the time that single hops take, more hops gain nothing, and a second of activations is little memory.
BLOCK_HOPS = 64


def can_stream(model: SpeechModel) -> bool:
    """Whether a model offers the streaming contract: bounded look-ahead, with its own `initial_state` and `step`."""
    cls = type(model)
    own = cls.step is not SpeechModel.step and cls.initial_state is not SpeechModel.initial_state
    return own and _bounded(model)


def _bounded(model: SpeechModel) -> bool:
    return model.lookahead_samples < UNBOUNDED and model.latency_samples < UNBOUNDED


class Streamer:
    """Feeds audio of any chunking through a streaming model, and takes its delay out of the result.

    The outputs of all `push` calls and the final `flush`, joined, are ``model(noisy).waveform`` of the joined input:
    as long, aligned in time, the same for any chunking, equal to float32 rounding. Memory does not grow. A sample comes
    out at most ``model.latency_samples`` later. Hops that arrive together go through in blocks where the model can.

    Args:
        model: a model that streams (`can_stream`); it is put in eval mode.
        batch: independent streams side by side (the channels of a file, for example).
        block_hops: most hops at once, of a model with `many_hops`.

    Raises:
        ValueError: if the model does not stream.
    """

    def __init__(self, model: SpeechModel, batch: int = 1, block_hops: int = BLOCK_HOPS) -> None:
        if not can_stream(model):
            why = "it has no `step`" if _bounded(model) else "its output depends on all that follows"
            raise UserError(f"{type(model).__name__} does not stream: {why}")
        self.model = model.eval()
        self.batch = batch
        self.hop_samples = model.hop_samples
        self.block_hops = block_hops if model.many_hops else 1
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
            ValueError: on another batch size, or on samples that `check_samples` refuses. The state is as before then.
        """
        if samples.ndim != 2 or samples.shape[0] != self.batch:
            raise UserError(f"expected samples [{self.batch}, n], got {list(samples.shape)}")
        try:
            check_samples(samples, self._received, self.model.sample_rate_hz)
        except ValueError as error:
            raise UserError(f"the audio {error}, which would spoil all that follows") from None
        self._received += samples.shape[1]
        return self._advance(samples.to(self._waiting))

    @torch.no_grad()
    def flush(self) -> Tensor:
        """Ends the signal: returns the rest ``[B, m]``, so that as much came out as went in, and resets."""
        missing = self._received - self._emitted
        if not missing:
            self.reset()
            return self._waiting
        waiting = self._waiting.shape[1]
        hops = math.ceil((waiting + self.delay_samples) / self.hop_samples)
        last = self._advance(self._zeros(self.hop_samples - waiting if waiting else 0))
        if "ended" in self._state:  # a model that must know: see SpeechModel.initial_state
            self._state = self._state | {"ended": torch.ones_like(self._state["ended"])}
        hop = self._zeros(self.hop_samples)
        rest = [self._advance(hop) for _ in range(hops - (waiting > 0))]
        self.reset()
        return torch.cat([last, *rest], dim=1)[:, :missing]

    def _zeros(self, samples: int) -> Tensor:
        return torch.zeros(self.batch, samples, device=self._waiting.device)

    def _advance(self, samples: Tensor) -> Tensor:
        waiting = torch.cat([self._waiting, samples], dim=1)
        whole = waiting.shape[1] // self.hop_samples * self.hop_samples
        outputs = []
        for block in waiting[:, :whole].split(self.block_hops * self.hop_samples, dim=1) if whole else ():
            output, self._state = self.model.step(block, self._state)
            outputs.append(output)
        self._waiting = waiting[:, whole:].clone()
        ready = torch.cat(outputs, dim=1) if outputs else waiting[:, :0]
        dropped = min(self._to_drop, ready.shape[1])
        self._to_drop -= dropped
        self._emitted += ready.shape[1] - dropped
        return ready[:, dropped:]


def streamed(model: SpeechModel, noisy: Tensor, block_hops: int = BLOCK_HOPS) -> Tensor:
    """What a `Streamer` makes of whole signals ``[B, N]``."""
    streamer = Streamer(model, noisy.shape[0], block_hops)
    return torch.cat([streamer.push(noisy), streamer.flush()], dim=1)


def check_samples(samples: Tensor, position: int, rate_hz: int) -> None:
    """Refuses samples ``[C, n]`` that would spoil a model's state: NaN, infinite or larger than `LARGEST`.

    The ValueError names the first one, given the ``position`` of the samples in the signal.
    """
    for fault, bad in (
        ("NaN or infinite samples", ~torch.isfinite(samples)),
        (f"samples larger than {LARGEST:g}, where full scale is 1", samples.abs() > LARGEST),
    ):
        if bad.any():
            first = position + int(bad.any(dim=0).nonzero()[0])
            raise UserError(f"holds {fault} (the first is sample {first}, at {first / rate_hz:.2f} s)")
