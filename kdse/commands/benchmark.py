"""`kdse benchmark`: what a student costs hop by hop, beside RNNoise, on the same audio in the same run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.commands.model import add_model, checkpoint_file, labelled, open_model
from kdse.commands.parser import Parser, at_least
from kdse.errors import UserError
from kdse.machine.files import write_text
from kdse.machine.packages import required
from kdse.pretrained import MODEL, Named, is_onnx, names

if TYPE_CHECKING:
    import numpy as np

    from kdse.deploy.benchmark.measure import Measured

EPILOG = """\
A checkpoint is timed in torch, as an ONNX streaming graph and as its int8 form, both made on the spot with `kdse
export`; an exported .onnx file is timed as it is. Every system runs in a process of its own, one after the other,
round by round, hop by hop: per-hop latency is computing time, which comes on top of the algorithmic latency. Peak
memory is that of the whole process, Python included. The int8 form made here is calibrated on the audio it is timed
with: its speed is that of any, its quality is not judged (`kdse evaluate` does).

RNNoise works at 48 kHz in hops of 10 ms and hears the same audio resampled (that is not timed).

The figures are as good as this machine is idle: the load is printed with them.

examples:
  kdse benchmark
  kdse benchmark runs/student --audio noisy.wav
  kdse benchmark cruse-62k student-int8.onnx --rounds 5 --json
"""


def make_parser() -> Parser:
    description = "Per-hop latency, real-time factor, memory and bytes of students in torch, ONNX and int8."
    parser = Parser("kdse benchmark", description, EPILOG)
    add_model(parser, "models", nargs="*", metavar="[LABEL=]MODEL", help=f"{MODEL}; default: all in the box")
    add = parser.add_argument
    add("--audio", metavar="FILE", help="audio to run on (default: a speech-like signal in noise)")
    add("--seconds", type=at_least(0.1, float), default=20.0, help="of the audio; it is repeated (default: 20)")
    add("--rounds", type=at_least(1), default=3, help="times every system hears it (default: 3)")
    add("--threads", type=at_least(1), default=1, help="of each runtime (default: 1)")
    add("--no-export", action="store_true", help="time checkpoints in torch alone")
    add("--no-int8", action="store_true", help="leave the int8 form of checkpoints out")
    add("--no-rnnoise", action="store_true", help="leave RNNoise out")
    add("--out", metavar="FILE", type=Path, help="also write the figures to this JSON file")
    parser.add_overwrite("--out if it exists")
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    models = labelled(arguments.models or names(), arguments.init)
    if arguments.out is not None and arguments.out.exists() and not arguments.overwrite:
        raise UserError(f"--out {arguments.out}: exists; --overwrite replaces it")

    from kdse.deploy.benchmark.measure import measure
    from kdse.deploy.benchmark.runners import RNNOISE, rnnoise_runner

    if not arguments.no_rnnoise:
        rnnoise_runner()  # told now, not after the others have been timed
    audio, rate = _audio(arguments.audio, arguments.seconds)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="kdse-benchmark-") as folder:
        systems: dict[str, str] = {}
        elsewhere: list[str] = []  # (weights that are not in the file that is run)
        for number, (label, named) in enumerate(models.items()):
            forms = _forms(label, named, Path(folder) / str(number), audio, rate, arguments)
            systems |= forms
            elsewhere += [form for form in forms if form == label]
        if not arguments.no_rnnoise:
            systems["RNNoise"] = RNNOISE
        measured = [
            replace(m, file_bytes=None, weight_bytes=None) if m.label in elsewhere else m
            for m in measure(systems, audio, rate, arguments.rounds, arguments.threads, _tell)
        ]
    about = {
        "machine": _machine(),
        "load_before": load,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "audio": arguments.audio or "speech-like probe in noise",
        "audio_seconds": len(audio) / rate,
    }
    result = json.dumps(about | {"systems": [asdict(m) for m in measured]}, indent=2)
    if arguments.out is not None:
        write_text(arguments.out, result)
    print(result if arguments.json else describe(measured, about))
    return 0


def _forms(
    label: str, named: Named, folder: Path, audio: np.ndarray, rate: int, arguments: argparse.Namespace
) -> dict[str, str]:
    """Label to file of what is timed for one MODEL; what is made for that lies in ``folder``."""
    from kdse.models.onnx_student import OnnxStudent
    from kdse.models.streaming import can_stream

    model = open_model(named, arguments)
    if isinstance(model, OnnxStudent):
        return {f"{label}.onnx": str(named.path)}
    if not can_stream(model):
        raise UserError(f"{label}: {type(model).__name__} does not stream, so there is no hop to time; `kdse profile`")
    folder.mkdir()
    if model.brings_weights:  # (a runtime of its own is in there)
        if is_onnx(named.path):
            named = named._replace(path=None, class_path="kdse.models.OnnxStream", init_args={"path": str(named.path)})
        return {label: str(checkpoint_file(named, arguments, folder))}
    from kdse.deploy.export.format import Options
    from kdse.deploy.export.write import export_file

    forms = {f"{label} torch": str(checkpoint_file(named, arguments, folder))}
    if arguments.no_export:
        return forms
    _tell(f"exporting {label}")
    forms[f"{label} ONNX"] = str(folder / "float.onnx")
    export_file(model, folder / "float.onnx", checkpoint=named.path)
    if not arguments.no_int8:
        soundfile = required("soundfile")
        heard = folder / "calibration"
        heard.mkdir()
        soundfile.write(heard / "audio.wav", audio, rate, subtype="FLOAT")
        _tell(f"quantising {label}")
        forms[f"{label} int8"] = str(folder / "int8.onnx")
        int8 = Options(quantize="int8", calibration=heard)
        export_file(model, folder / "int8.onnx", options=int8, checkpoint=named.path)
    return forms


def _audio(file: str | None, seconds: float) -> tuple[np.ndarray, int]:
    """Mono audio of the wanted length and its rate."""
    import numpy as np

    if file is None:
        from kdse.models.probe_speech import speech_like, with_noise

        return with_noise(speech_like(16000, seconds))[0].numpy(), 16000
    soundfile = required("soundfile")
    try:
        wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise UserError(f"--audio {file}: not readable as audio ({' '.join(str(error).split())})") from None
    mono = wave.mean(axis=1)
    if not len(mono) or not np.isfinite(mono).all():
        raise UserError(f"--audio {file}: holds no samples, or NaN or infinite ones")
    return np.resize(mono, max(1, round(seconds * rate))), rate


def describe(measured: list[Measured], about: dict[str, Any]) -> str:
    """The figures as a table, with ratios to RNNoise if it is among them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    yardstick = next((m.real_time_factor for m in measured if m.label == "RNNoise"), None)
    columns: dict[str, Callable[[Measured], str]] = {
        "hop ms": lambda m: f"{m.hop_ms:g}",
        "latency ms": lambda m: f"{m.latency_ms:g}",
        "median ms": lambda m: f"{m.median_ms:.3f}",
        "p99 ms": lambda m: f"{m.p99_ms:.3f}",
        "worst ms": lambda m: f"{m.worst_ms:.2f}",
        "real-time factor": lambda m: f"{m.real_time_factor:.4f} ({m.fastest:.4f} to {m.slowest:.4f})",
        "x RNNoise": lambda m: "" if yardstick is None else f"{m.real_time_factor / yardstick:.2f}",
        "peak MB": lambda m: f"{m.peak_bytes / 1e6:.0f}",
        "weights kB": lambda m: "" if m.weight_bytes is None else f"{m.weight_bytes / 1e3:.0f}",
        "file kB": lambda m: "" if m.file_bytes is None else f"{m.file_bytes / 1e3:.0f}",
    }
    table = Table("system", box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name, justify="right")
    for m in measured:
        table.add_row(m.label, *(text(m) for text in columns.values()))
    console = Console(width=160, force_terminal=False)
    with console.capture() as shown:
        console.print(table)
    load = "" if about["load_before"] is None else f", load before {about['load_before']:.2f}"
    runtimes = ", ".join(sorted({m.runtime for m in measured}))
    return (
        "\n".join(line.rstrip() for line in shown.get().strip("\n").splitlines())
        + f"\n\n{about['audio_seconds']:g} s of {about['audio']}, {about['rounds']} rounds, {about['threads']} "
        f"thread{'s' * (about['threads'] > 1)}, {about['machine']}{load}\n{runtimes}\n"
        f"Python alone takes {min(m.python_bytes for m in measured) / 1e6:.0f} MB of the peak."
    )


def _machine() -> str:
    """Processor and system, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
