"""`export_file`: a student into one file of another runtime's format, checked before it gets its name."""

from __future__ import annotations

import importlib
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from kdse.deploy.export import parity
from kdse.deploy.export.format import ExportFormat, Options
from kdse.deploy.export.graphs import Port, graph_of
from kdse.deploy.export.metadata import describe_export
from kdse.errors import UserError
from kdse.machine.files import write_bytes
from kdse.models.base import SpeechModel

#: The formats by name, from the module ``NAME_file`` of this folder each; the first is the default.
FORMATS: dict[str, ExportFormat] = {
    name: importlib.import_module(f"{__package__}.{name}_file").FORMAT
    for name in ("onnx", "torchscript", "pt2", "executorch")
}


@dataclass(frozen=True)
class Written:
    """What was written.

    initializer_bytes: weights and other constants; None where the format does not tell.
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
    options: Options | None = None,
    parity_audio: Path | None = None,
    checkpoint: Path | None = None,
) -> Written:
    """Writes the student to ``target`` once the file has given PyTorch's results.

    Args:
        model: the student; on the CPU.
        target: the file; one that exists is replaced.
        file_format: one of `FORMATS`.
        options: what the file shall hold; None for single hops of float32 with the STFT inside.
        parity_audio: what to compare on; None as in `kdse.deploy.export.parity.probe`.
        checkpoint: where the model came from, for the metadata.

    Raises:
        ValueError: if the model cannot be written that way, or the file is further than 1e-4 from PyTorch; then
            nothing is at ``target`` that was not there before.
    """
    kind, options = FORMATS[file_format], options or Options()
    check(kind, options)
    flag = None if options.quantize is None else f"--quantize {options.quantize}"
    graph = graph_of(model, options.streaming, options.stft, flag)
    about = describe_export(graph, checkpoint)
    noisy, signal = parity.probe(model.sample_rate_hz, parity_audio)
    tolerance = parity.TOLERANCE if options.quantize is None else sys.float_info.max
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        draft = Path(folder) / target.name
        kind.write(graph, draft, options, about)
        measured = parity.compare(kind.load(draft, about), model, noisy, signal, graph.kind)
        parity.require(measured, str(target), tolerance)
        about["parity"] = measured.as_metadata()
        if kind.update(graph, draft, options, about):
            again = parity.compare(kind.load(draft, about), model, noisy, signal, graph.kind)
            parity.require(again, str(target), tolerance)
        constants, content = kind.constant_bytes(draft), draft.read_bytes()
    write_bytes(target, content)
    inputs, outputs = graph.ports(graph.input_names), graph.ports(graph.output_names)
    return Written(str(target), len(content), constants, inputs, outputs, about)


def check(kind: ExportFormat, options: Options) -> None:
    """Refuses options that exclude each other, or that the format does not know, by flags of `kdse export`."""
    if options.stft not in ("inside", "outside"):
        raise UserError(f'--stft {options.stft}: use "inside" or "outside"')
    if not options.streaming and options.stft == "outside":
        raise UserError("--stft outside: is for --streaming; a graph of whole signals has its STFT inside")
    for name in ("opset", "quantize", "delegate"):
        value = getattr(options, name)
        if value is not None and name not in kind.own_options:
            able = " or ".join(other.name for other in FORMATS.values() if name in other.own_options)
            raise UserError(f"--{name} {value}: is for --format {able}; leave it out")
    if not options.streaming and not kind.whole:
        raise UserError(f"--whole: a file of --format {kind.name} holds one hop; leave it out")
    if options.stft not in kind.stft:
        raise UserError(f"--format {kind.name}: has no Fourier transform; add --stft {kind.stft[0]}")
    if options.quantize and not options.streaming:
        raise UserError(f"--quantize {options.quantize}: is for --streaming; leave --whole out")
    if options.quantize == "int8" and options.calibration is None:
        raise UserError("--quantize int8: needs audio that sets the ranges: give --calibration FOLDER of noisy speech")
    if options.calibration is not None and options.quantize != "int8":
        raise UserError("--calibration: is for --quantize int8; leave it out")
