"""`export_file`: a student into one file of another runtime's format, checked before it gets its name."""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdse.deploy.export import onnx_file, parity
from kdse.deploy.export.graphs import Step, step_graph
from kdse.deploy.export.metadata import describe_export
from kdse.deploy.export.whole import WholeSignal
from kdse.machine.files import write_bytes
from kdse.models.base import SpeechModel
from kdse.models.exported import ExportedStudent

#: Formats and the endings their files may have; the first is the usual one.
SUFFIXES = {"onnx": (".onnx",), "torchscript": (".pt", ".ts"), "pt2": (".pt2",), "executorch": (".pte",)}
#: Ways to quantise and what `kdse.deploy.export.quantise` calls them.
QUANTIZE = {"int8": "static", "int8-dynamic": "dynamic", "int8-weights": "weights"}


@dataclass(frozen=True)
class Port:
    """One input or output of a file; a text instead of a size is an axis of any length."""

    name: str
    shape: list[int | str]
    dtype: str


@dataclass(frozen=True)
class Written:
    """What was written.

    initializer_bytes: weights and other constants, in an ONNX file; None in other formats.
    """

    path: str
    bytes: int
    initializer_bytes: int | None
    inputs: list[Port]
    outputs: list[Port]
    metadata: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def export_file(
    model: SpeechModel,
    target: Path,
    file_format: str = "onnx",
    streaming: bool = True,
    stft: str = "inside",
    opset: int = onnx_file.DEFAULT_OPSET,
    quantize: str | None = None,
    calibration: Path | None = None,
    parity_audio: Path | None = None,
    checkpoint: Path | None = None,
    delegate: str = "portable",
) -> Written:
    """Writes the student to ``target`` once the file has given PyTorch's results.

    Args:
        model: the student; on the CPU.
        target: the file; one that exists is replaced.
        file_format: "onnx", "torchscript", "pt2" or "executorch".
        streaming: one hop and the states a call; False takes and gives whole signals.
        stft: "inside" the graph or "outside" of it (streaming only).
        opset: of ONNX.
        quantize: "int8", "int8-dynamic" or "int8-weights" (ONNX only); then the difference to PyTorch is reported, not
            limited.
        calibration: folder of audio for "int8".
        parity_audio: what to compare on; None as in `kdse.deploy.export.parity.probe`.
        checkpoint: where the model came from, for the metadata.
        delegate: who computes in an ExecuTorch file; see `write_executorch`. Such a file is lowered once, which takes
            a minute, so its metadata lacks the parity.

    Raises:
        ValueError: if the model cannot be written that way, or the file is further than 1e-4 from PyTorch; then
            nothing is at ``target`` that was not there before.
    """
    graph = step_graph(model, stft) if streaming else None
    about = describe_export(model, graph, stft, checkpoint)
    noisy, signal = parity.probe(model.sample_rate_hz, parity_audio)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        draft = Path(folder) / target.name
        if file_format == "onnx":
            content = _onnx_bytes(model, graph, opset, quantize is not None)
            draft.write_bytes(onnx_file.with_metadata(content, about))
            if quantize is not None:
                about["quantized"] = _quantise(draft, quantize, calibration)
        else:
            _write(file_format, model, draft, streaming, stft, about, delegate)
        measured = _compare(draft, file_format, about, model, noisy, signal)
        parity.require(measured, str(target), sys.float_info.max if quantize else parity.TOLERANCE)
        about["parity"] = measured.as_metadata()
        if file_format == "onnx":
            draft.write_bytes(onnx_file.with_metadata(draft.read_bytes(), about))
        elif file_format != "executorch":
            # traced anew, so that it can say what was found, and so compared anew
            _write(file_format, model, draft, streaming, stft, about, delegate)
            again = _compare(draft, file_format, about, model, noisy, signal)
            parity.require(again, str(target), parity.TOLERANCE)
        content = draft.read_bytes()
    write_bytes(target, content)
    constants = onnx_file.initializer_bytes(content) if file_format == "onnx" else None
    inputs, outputs = ports(graph)
    return Written(str(target), len(content), constants, inputs, outputs, about)


def ports(graph: Step | None) -> tuple[list[Port], list[Port]]:
    """Inputs and outputs of a file."""
    if graph is None:
        shape: list[int | str] = ["batch", "samples"]
        return [Port("audio", shape, "float32")], [Port("enhanced", shape, "float32")]
    sizes = [(list(t.shape), str(t.dtype).removeprefix("torch.")) for t in graph.example(1)]
    rows = [[Port(n, [*s], d) for n, (s, d) in zip(names, sizes, strict=True)] for names in _names(graph)]
    return rows[0], rows[1]


def _names(graph: Step) -> tuple[list[str], list[str]]:
    return graph.input_names, graph.output_names


def _onnx_bytes(model: SpeechModel, graph: Step | None, opset: int, quantised: bool) -> bytes:
    if graph is None:
        whole = WholeSignal(model)
        return onnx_file.build(whole, whole.example(), ["audio"], ["enhanced"], opset, whole.dynamic_shapes())
    from kdse.deploy.export.gru_cell import gru_as_products

    with gru_as_products(model) if quantised else contextlib.nullcontext():  # quantisers know products, not GRUs
        return onnx_file.build(graph, graph.example(1), graph.input_names, graph.output_names, opset)


def _quantise(draft: Path, quantize: str, calibration: Path | None) -> dict[str, Any]:
    from kdse.deploy.export.quantise import quantise_file

    source = draft.with_name(f"float-{draft.name}")
    draft.rename(source)
    with onnx_file.quiet():  # onnxruntime's quantiser gives advice on the log
        return quantise_file(source, draft, QUANTIZE[quantize], calibration)


def _write(
    file_format: str, model: SpeechModel, draft: Path, streaming: bool, stft: str, about: dict[str, Any], delegate: str
) -> None:
    if file_format == "torchscript":
        from kdse.deploy.export.torchscript_file import write_torchscript

        write_torchscript(model, draft, streaming, stft, about)
    elif file_format == "pt2":
        from kdse.deploy.export.pt2_file import write_pt2

        write_pt2(model, draft, streaming, stft, about)
    else:
        from kdse.deploy.export.executorch_file import write_executorch

        if not streaming:
            raise ValueError("--whole: an ExecuTorch file holds one hop; leave it out")
        write_executorch(model, draft, stft, about, delegate)


def _compare(
    draft: Path, file_format: str, about: dict[str, Any], model: SpeechModel, noisy: Tensor, signal: str
) -> parity.Parity:
    if about["kind"] == "step":
        exported: SpeechModel
        if file_format == "onnx":
            from kdse.models.onnx_student import OnnxStudent

            exported = OnnxStudent(str(draft))
        else:
            exported = _Program(_load(draft, file_format), about, str(draft))
        return parity.compare_steps(exported, model, noisy, signal)
    if file_format == "onnx":
        from kdse.models.checkpoint import load_model

        onnx = load_model(draft)
        return parity.compare_whole(lambda wave: onnx(wave).waveform, model, noisy, signal)
    return parity.compare_whole(_load(draft, file_format), model, noisy, signal)


def _load(draft: Path, file_format: str) -> Callable[..., Any]:
    if file_format == "executorch":
        from kdse.deploy.export.executorch_file import load_executorch

        program: Callable[..., Any] = load_executorch(draft)[0]
        return program
    with onnx_file.quiet():
        return torch.jit.load(str(draft)) if file_format == "torchscript" else torch.export.load(str(draft)).module()


class _Program(ExportedStudent):
    """A TorchScript or torch.export step file that was just written."""

    def __init__(self, program: Callable[..., Any], about: dict[str, Any], source: str) -> None:
        super().__init__(about, source)
        self._program = (program,)  # (no submodule: a torch.export program has no eval())

    def run(self, first: Tensor, states: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        answer, *after = self._program[0](first, *states.values())
        return answer, dict(zip(states, after, strict=True))


def latency_ms(about: dict[str, Any]) -> float | None:
    """Algorithmic latency that the metadata states; None if it is the whole signal."""
    samples = about["latency_samples"]
    return None if samples is None or not math.isfinite(samples) else 1000 * samples / about["sample_rate_hz"]
