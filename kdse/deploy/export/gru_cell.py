"""GRUs as matrix products: quantisers of other runtimes know those and leave a GRU node alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProductGru(nn.GRU):
    """`nn.GRU` written as one product with the input and one with the hidden state per layer and frame.

    With weights ordered (reset r, update z, candidate n), as PyTorch stores them::

        i = W_ih x + b_ih      r = sigmoid(i_r + h_r)      n = tanh(i_n + r * h_n)
        h = W_hh h + b_hh      z = sigmoid(i_z + h_z)      h' = n + z * (h - n)

    Equal to `nn.GRU` up to float32 rounding. An export holds one copy of the cell per frame: meant for graphs of one
    frame. It is never built: `gru_as_products` lends its method.
    """

    # nn.GRU takes a PackedSequence too, which no graph of one frame holds
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """``[B, T, in]`` (or ``[T, B, in]`` without `batch_first`) and ``[layers, B, H]``; both as in `nn.GRU`."""
        frames_tbi = input.transpose(0, 1) if self.batch_first else input
        states = []
        for layer in range(self.num_layers):
            batch = frames_tbi.shape[1]
            hidden = frames_tbi.new_zeros(batch, self.hidden_size) if hx is None else hx[layer]
            outputs = []
            for frame in frames_tbi.unbind(0):
                hidden = self._cell(frame, hidden, layer)
                outputs.append(hidden)
            frames_tbi = torch.stack(outputs)
            states.append(hidden)
        output = frames_tbi.transpose(0, 1) if self.batch_first else frames_tbi
        return output, torch.stack(states)

    def _cell(self, x: Tensor, hidden: Tensor, layer: int) -> Tensor:
        ih, hh, *biases = self.all_weights[layer]
        bias_ih, bias_hh = biases if self.bias else (None, None)
        from_input = F.linear(x, ih, bias_ih).chunk(3, dim=-1)
        from_hidden = F.linear(hidden, hh, bias_hh).chunk(3, dim=-1)
        reset = torch.sigmoid(from_input[0] + from_hidden[0])
        update = torch.sigmoid(from_input[1] + from_hidden[1])
        candidate = torch.tanh(from_input[2] + reset * from_hidden[2])
        return candidate + update * (hidden - candidate)


@contextmanager
def gru_as_products(model: nn.Module) -> Iterator[None]:
    """Within the body, each `nn.GRU` of ``model`` computes by `ProductGru`; weights and results stay as they are.

    GRUs that run in both directions, or drop out between layers while training, are left alone.
    """
    grus = [m for m in model.modules() if type(m) is nn.GRU and not m.bidirectional and not (m.dropout and m.training)]
    try:
        for gru in grus:
            gru.__class__ = ProductGru
        yield
    finally:
        for gru in grus:
            gru.__class__ = nn.GRU
