"""ONNX files of `kdse export` as models: `OnnxStudent` runs one hop by hop, `load_onnx` any of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdse.errors import UserError
from kdse.internals.lean_imports import uncompiled
from kdse.machine.onnx_sessions import HopLoop, open_session
from kdse.models.base import SpeechModel
from kdse.models.exported import ExportedStudent, delays, parse
from kdse.models.foreign import file_identity
from kdse.models.front_ends import recognised
from kdse.models.onnx import Onnx
from kdse.models.onnx_graphs import open_graph
from kdse.models.onnx_ports import ports_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

KEY = "kdse"
#: Types of states as ONNX calls them.
NAMES = {"float32": "float", "float64": "double"}


class OnnxStudent(ExportedStudent):
    """A step graph (``audio`` and ``state.*`` in, ``enhanced`` and ``next.*`` out) as a model that streams.

    Equal to the PyTorch student it came from to float32 rounding, with the STFT inside or outside the graph. Needs
    the package onnxruntime (tested with 1.31), and nothing of the student's own code.

    Args:
        path: the file.
        threads: threads of onnxruntime; 1 is fastest for graphs this small.
    """

    brings_weights = True
    file_sha256: Tensor

    def __init__(self, path: str, threads: int = 1) -> None:
        source = f"OnnxStudent: path {path}"
        session = open_session(path, threads, source)
        about = session_metadata(session, source)
        if about is None:
            raise UserError(f"{source}: was not written by kdse export (it has no metadata entry {KEY!r})")
        super().__init__(about, source)
        outside = about["stft"] == "outside"
        self._first, answer = ("spectrum", "enhanced_spectrum") if outside else ("audio", "enhanced")
        names = [entry["name"] for entry in about["states"]]
        inputs, outputs = [self._first, *(f"state.{name}" for name in names)], [answer, *(f"next.{n}" for n in names)]
        _check(session, inputs, outputs, about, source)
        shape = (1, self.hop_samples) if self.stft is None else (1, self.stft.bins, 2)
        states = {name: state.numpy() for name, state in self.file_states(1).items()}
        self._loop = HopLoop(session, (self._first, answer), shape, states, "OnnxStudent: the graph")
        self._lock = threading.Lock()  # (the loop's arrays are of one stream at a time)
        # the weights are in the file, not in parameters: its digest stands for them in the fingerprint
        self.register_buffer("file_sha256", file_identity(Path(path)))

    @uncompiled
    def run(self, signals: Sequence[Tensor], states: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        with self._lock:
            for name, state in states.items():
                self._loop.states[name][...] = state.numpy()
            answers = [torch.from_numpy(self._loop(signal.numpy()).copy()) for signal in signals]
            return answers, {name: torch.from_numpy(state.copy()) for name, state in self._loop.states.items()}


def session_metadata(session: InferenceSession, source: str) -> dict[str, Any] | None:
    """What kdse wrote into the file of an onnxruntime session; None if it wrote nothing (errors as of `parse`)."""
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    return None if text is None else parse(text, source)


def read_metadata(path: str | Path) -> dict[str, Any] | None:
    """What kdse wrote into an ONNX file; None if it wrote nothing.

    Raises:
        ValueError: if the file cannot be run, or its metadata is damaged.
    """
    session = open_session(str(path), 1, f"OnnxStudent: path {path}")
    return session_metadata(session, str(path))


def load_onnx(path: str | Path, sample_rate_hz: int = 16000, threads: int = 0) -> SpeechModel:
    """What runs an ONNX file, in eval mode.

    `OnnxStudent` for single hops of `kdse export`, `OnnxStream` or `OnnxSpectral` for an interface that
    `kdse.models.front_ends` knows, else `Onnx`.

    Args:
        path: the file.
        sample_rate_hz, threads: of an `Onnx` whose file does not state them.
    """
    source = f"OnnxStudent: path {path}"
    session = open_session(str(path), 1, source)
    about = session_metadata(session, str(path))
    if about is None:
        if len(session.get_inputs()) > 1 or recognised([ports_of(session)]) is not None:
            return open_graph(str(path), threads=threads)
        return Onnx(str(path), sample_rate_hz, threads=threads).eval()
    if about["kind"] == "step":
        return OnnxStudent(str(path)).eval()
    latency, lookahead = delays(about)
    model = Onnx(
        str(path),
        about["sample_rate_hz"],
        minimum_samples=about.get("minimum_samples") or 1,
        threads=1,
        causal=about["causal"],
        lookahead_samples=lookahead,
        latency_samples=latency,
    )
    model.parameter_count = about.get("parameters")
    return model.eval()


def _check(
    session: InferenceSession, inputs: list[str], outputs: list[str], about: dict[str, Any], source: str
) -> None:
    """Refuses a graph of other inputs and outputs than its metadata say: names, and types and shapes of states."""
    states = {entry["name"]: [f"tensor({NAMES[entry['dtype']]})", entry["shape"]] for entry in about["states"]}
    for what, wanted, entries in (("input", inputs, session.get_inputs()), ("output", outputs, session.get_outputs())):
        found = {entry.name: [entry.type, entry.shape] for entry in entries}
        differing = sorted(set(wanted) ^ set(found))
        differing += [name for name in found if found[name] != states.get(name.partition(".")[2], found[name])]
        if differing:
            raise UserError(
                f"{source}: its graph and its kdse metadata disagree on the {what} {differing[0]!r}; export it again"
            )
