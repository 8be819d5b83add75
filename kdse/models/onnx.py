"""`Onnx`: a network from an ONNX file, run by onnxruntime, as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kdse.audio.alignment import fit_length
from kdse.errors import UserError
from kdse.internals.lean_imports import uncompiled
from kdse.machine.onnx_sessions import open_session, run_session
from kdse.models.base import Estimate, SpeechModel
from kdse.models.foreign import file_identity, run_foreign

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}


class Onnx(SpeechModel):
    """An ONNX graph from noisy wave to enhanced wave, for objectives on the output.

    It runs on the CPU whatever the student's device, without gradient and without taps. The graph has one input
    ``[B, N]``, ``[B, 1, N]`` or ``[N]``; a batch of fixed size (1 is common) is served in pieces of that size, and for
    a fixed length shorter audio is filled with zeros, longer audio refused.

    A checkpoint that names an ONNX file is refused unless the reader passes --trust-code. Needs the package
    onnxruntime (tested with 1.31).

    Args:
        path: the file.
        sample_rate_hz: rate the network works at.
        output_name: which output is the enhanced wave; None takes the first.
        minimum_samples: shorter audio is filled with zeros to this length.
        threads: threads of onnxruntime; 0 lets it choose.
        causal: whether no future sample is used. Not checked here; `kdse enhance` cross-fades chunks in either case.
        lookahead_samples: largest m - n such that output n depends on input m.
        latency_samples: algorithmic latency.
    """

    brings_weights = True
    file_sha256: Tensor

    def __init__(
        self,
        path: str,
        sample_rate_hz: int = 16000,
        output_name: str | None = None,
        minimum_samples: int = 1,
        threads: int = 0,
        causal: bool = False,
        lookahead_samples: int = 0,
        latency_samples: int = 0,
    ) -> None:
        super().__init__()
        self.sample_rate_hz, self.minimum_samples = sample_rate_hz, minimum_samples
        self.causal, self.lookahead_samples, self.latency_samples = causal, lookahead_samples, latency_samples
        self._session = open_session(path, threads, f"Onnx: path {path}")
        self._input = _only_input(self._session, path)
        outputs = [output.name for output in self._session.get_outputs()]
        self._output = outputs[0] if output_name is None else output_name
        if self._output not in outputs:
            raise UserError(f"Onnx: output_name={output_name!r}: {path} has {', '.join(outputs)}")
        self.fixed_samples = self._input.samples
        # the weights are in the file, not in parameters: its digest stands for them in the fingerprint
        self.register_buffer("file_sha256", file_identity(Path(path), Path(path + ".data")))

    def forward(self, noisy: Tensor) -> Estimate:
        heard = noisy
        if self.fixed_samples is not None:
            if noisy.shape[1] > self.fixed_samples:
                raise UserError(
                    f"Onnx: the graph was exported for {self.fixed_samples} samples and got {noisy.shape[1]}; use "
                    "crops of at most that length, or export it again with a dynamic time axis"
                )
            heard = fit_length(noisy, self.fixed_samples)
        wave = run_foreign(self._run, heard, "Onnx", minimum_samples=self.minimum_samples)
        return Estimate(wave[:, : noisy.shape[1]])

    @uncompiled
    def _run(self, heard: Tensor) -> Tensor:
        """``[B, N]`` through the session, in pieces of the batch size it wants."""
        piece = self._input.batch or heard.shape[0]
        ready = heard.detach().to("cpu", self._input.dtype)
        waves = []
        for items in ready.split(piece):
            count = items.shape[0]
            if count < piece:
                items = torch.cat([items, items.new_zeros(piece - count, items.shape[1])])
            samples = items.shape[1]
            fed = items.reshape([[samples], [piece, samples], [piece, 1, samples]][self._input.rank - 1]).numpy()
            (wave,) = run_session(self._session, [self._output], {self._input.name: fed}, "Onnx: the graph")
            waves.append(self._rows(torch.from_numpy(wave), piece)[:count])
        return torch.cat(waves).to(heard.device, torch.float32)

    def _rows(self, wave: Tensor, count: int) -> Tensor:
        if wave.dim() == 0 or wave.numel() != count * wave.shape[-1]:
            raise UserError(
                f"Onnx: output {self._output!r} is {list(wave.shape)} for {count} items; it must be one wave each: "
                f"choose another with output_name ({', '.join(o.name for o in self._session.get_outputs())})"
            )
        return wave.reshape(count, -1)


class _Input(NamedTuple):
    """What a graph wants: its axes, and the sizes fixed in the file (None where any will do)."""

    name: str
    rank: int
    batch: int | None
    samples: int | None
    dtype: torch.dtype


def _only_input(session: InferenceSession, path: str) -> _Input:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        listed = ", ".join(f"{i.name} {i.shape}" for i in inputs)
        raise UserError(
            f"Onnx: path {path}: has {len(inputs)} inputs ({listed}); one graph input, the audio, can be served: "
            "kdse.models.OnnxStream takes streaming state"
        )
    (entry,) = inputs
    sizes = [size if isinstance(size, int) else None for size in entry.shape]
    if entry.type not in DTYPES:
        raise UserError(f"Onnx: path {path}: its input {entry.name!r} is a {entry.type}, not a float tensor")
    if not 1 <= len(sizes) <= 3 or (len(sizes) == 3 and sizes[1] not in (1, None)):
        raise UserError(
            f"Onnx: path {path}: its input {entry.name!r} is {entry.shape}; it must be audio [B, N], [B, 1, N] or [N]"
        )
    return _Input(entry.name, len(sizes), 1 if len(sizes) == 1 else sizes[0], sizes[-1], DTYPES[entry.type])
