"""`kdse export`: a trained student as a file for ONNX Runtime, TorchScript, torch.export or ExecuTorch."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdse.commands.model import add_model, named_model, open_model, run_of
from kdse.commands.parser import Parser
from kdse.errors import UserError
from kdse.pretrained import is_onnx

if TYPE_CHECKING:
    from kdse.deploy.export.graphs import Port
    from kdse.deploy.export.write import Written
    from kdse.pretrained import Named

EPILOG = """\
A file holds the student alone: no teacher, no objective, no path of this machine. With --streaming a call takes one
hop of audio and the states and gives one enhanced hop and the next states; states begin as zeros. With --whole it
takes whole signals. The default is --streaming where the model can. --stft outside leaves the Fourier transform to the
host: spectra [1, bins, 2] instead of audio.

Every file is run against PyTorch before it gets its name: hop by hop and over the whole signal, on --parity-audio,
else on a test mixture of the corpus at $KDSE_CORPUS, else on a fixed probe signal. A difference above 1e-4 (-80 dB of
full scale) is an error and writes nothing; for a quantised file it is only reported. The metadata entry "kdse" (JSON)
says what is inside. `kdse enhance`, `evaluate` and `profile` take .onnx files as they take checkpoints.

examples:
  kdse export cruse-62k --format onnx --streaming --out student.onnx
  kdse export runs/student --stft outside --opset 18 --out student.onnx
  kdse export cruse-62k --quantize int8-dynamic --out student-int8.onnx
  kdse export cruse-62k --format torchscript --whole --out student.pt
  kdse export cruse-62k --format executorch --stft outside --delegate xnnpack --out student.pte
"""


def make_parser() -> Parser:
    from kdse.deploy.export.executorch_file import DELEGATES
    from kdse.deploy.export.onnx_graph import DEFAULT_OPSET, OPSETS
    from kdse.deploy.export.quantise import QUANTIZE
    from kdse.deploy.export.write import FORMATS

    description = "Write a trained student as one file that runs without kdse, checked against PyTorch."
    parser = Parser("kdse export", description, EPILOG)
    add_model(parser, "model")
    add = parser.add_argument
    add("--format", choices=list(FORMATS), default="onnx", help="kind of file (default: onnx)")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--streaming", action="store_true", help="one hop and the states a call")
    scope.add_argument("--whole", action="store_true", help="whole signals")
    add("--stft", choices=["inside", "outside"], default="inside", help="who computes the STFT (default: the graph)")
    add("--opset", type=int, metavar="N", help=f"of ONNX, {OPSETS[0]} to {OPSETS[-1]} (default: {DEFAULT_OPSET})")
    add("--quantize", choices=list(QUANTIZE), help="8-bit weights; int8 takes activations too and wants --calibration")
    add("--delegate", choices=DELEGATES, help="of --format executorch: who computes (default: portable)")
    add("--calibration", metavar="DIR", type=Path, help="folder of noisy audio to calibrate int8 on")
    add("--parity-audio", metavar="FILE", type=Path, help="audio of 4 s or more to compare with PyTorch on")
    add(
        "--out", metavar="FILE", type=Path, help="the file (default: named after MODEL, in its run folder or else here)"
    )
    parser.add_overwrite("the file if it exists")
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    from kdse.deploy.export.format import Options
    from kdse.deploy.export.write import FORMATS, check, export_file
    from kdse.models.streaming import can_stream

    options = Options(
        streaming=not arguments.whole,
        stft=arguments.stft,
        opset=arguments.opset,
        quantize=arguments.quantize,
        calibration=arguments.calibration,
        delegate=arguments.delegate,
    )
    kind = FORMATS[arguments.format]
    check(kind, options)  # (before anything slow)
    named = named_model(arguments)
    if is_onnx(named.path):
        raise UserError(f"{named.path}: is an exported file already; give the checkpoint it came from")
    target = _target(arguments, named)
    model = open_model(named, arguments)
    asked = arguments.streaming or options.stft == "outside" or options.quantize
    if kind.whole and not asked and not can_stream(model):
        options = replace(options, streaming=False)
    written = export_file(model, target, arguments.format, options, arguments.parity_audio, named.path)
    print(json.dumps(written.as_dict(), indent=2, ensure_ascii=False) if arguments.json else summary(written))
    return 0


def _target(arguments: argparse.Namespace, named: Named) -> Path:
    from kdse.deploy.export.write import FORMATS

    suffixes = FORMATS[arguments.format].suffixes
    target: Path = arguments.out or (run_of(named) or Path()) / f"{named.label}{suffixes[0]}"
    if target.suffix not in suffixes:
        raise UserError(f"--out {target}: a {arguments.format} file ends in {' or '.join(suffixes)}")
    if target.is_dir():
        raise UserError(f"--out {target}: is a folder; name the file in it")
    if target.exists() and named.path is not None and named.path.exists() and target.samefile(named.path):
        raise UserError(f"--out {target}: is the checkpoint itself; give another file")
    if target.exists() and not arguments.overwrite:
        raise UserError(f"--out {target}: exists; --overwrite replaces it")
    return target


def summary(written: Written) -> str:
    """What was written, for people."""
    about, parity, quantized = written.metadata, written.metadata["parity"], written.metadata["quantized"]
    constants = "" if written.initializer_bytes is None else f", {written.initializer_bytes:,} of them weights"
    samples = about["latency_samples"]
    latency = "the whole signal" if samples is None else f"{1000 * samples / about['sample_rate_hz']:g} ms"
    difference = parity["max_abs_difference"]
    decibels = f"{20 * math.log10(difference):.0f} dB of full scale" if difference else "none at all"
    lines = [
        f"wrote {written.path}: {written.bytes:,} bytes{constants}; {about['parameters']:,} parameters",
        f"  in    {_listed(written.inputs)}",
        f"  out   {_listed(written.outputs)}",
        f"  latency {latency} at {about['sample_rate_hz']} Hz, hops of {about['hop_samples']} samples",
        f"  difference to PyTorch {difference:.1e} ({decibels}), on {parity['seconds']:g} s: {parity['signal']}",
    ]
    if quantized is not None:
        left = f"; left in float: {', '.join(quantized['operators_left'])}" if quantized["operators_left"] else ""
        lines.append(
            f"  8 bits, {quantized['mode']}: {quantized['weight_share']:.1%} of the float weights' bytes, output "
            f"{quantized['si_sdr_to_float_db']:g} dB SI-SDR to the float file's{left}"
        )
    return "\n".join(lines)


def _listed(ports: list[Port]) -> str:
    """The first port in full, the states by their number."""
    first, *states = ports
    text = f"{first.name} {first.dtype} [{', '.join(map(str, first.shape))}]"
    return f"{text} and {len(states)} states" if states else text
