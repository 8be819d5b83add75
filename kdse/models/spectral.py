"""What models share that enhance the frames of an STFT: streaming hop by hop, and taps of numbered blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from kdse.models.base import SpeechModel, Tap
from kdse.models.layers import State, named
from kdse.models.stft import Stft


class SpectralModel(SpeechModel):
    """Base of models that stream by enhancing STFT frames in their order.

    Subclasses set `stft` and implement `parts` and `step_spectrum`.
    """

    many_hops = True
    stft: Stft
    encoder: nn.ModuleList

    def encode(self, x: Tensor, run: Callable[[str, Any, Tensor], Tensor]) -> list[Tensor]:
        """The outputs of all encoder blocks: `kdse.models.layers.whole`, or the next frames by `NextFrames`."""
        outputs = []
        for i, block in enumerate(self.encoder):
            x = run(f"encoder{i}", block, x)
            outputs.append(x)
        return outputs

    def parts(self) -> Iterable[tuple[str, Any, int]]:
        """The layers with state (see `kdse.models.layers`): name, layer, frequencies of its input."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> State:
        state = self.stft.initial_state(batch, self.device)
        for name, part, frequencies in self.parts():
            state |= named(name, part.initial_state(batch, frequencies, self.device))
        return state

    def step(self, noisy_hop: Tensor, state: State) -> tuple[Tensor, State]:
        return self.stft.step(noisy_hop, state, self.step_spectrum)

    def step_spectrum(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        """The spectrum of T frames ``[B, F, T]`` in, the enhanced one and the network's new state out."""
        raise NotImplementedError


def block_taps(group: str, count: int, inside: str = "") -> dict[str, Tap]:
    """Taps ``encoder0``, ``encoder1``, ... on the modules ``encoder.0``, or on one inside each (".norm")."""
    return {f"{group}{i}": Tap(f"{group}.{i}{inside}", group=group) for i in range(count)}
