"""A model that only delays, as a streaming model does, for tests of what is around the model."""

from __future__ import annotations

import torch
from torch import Tensor

from kdse.models import Estimate, SpeechModel


class Passing(SpeechModel):
    """Returns its input times ``gain``; hop by hop, one hop late."""

    causal = True
    hop_samples = 256
    lookahead_samples = 511
    latency_samples = 512

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, noisy: Tensor) -> Estimate:
        return Estimate(self.gain * noisy)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {"past": torch.zeros(batch, 256)}

    def step(self, noisy_hop: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.gain * state["past"], {"past": noisy_hop}
