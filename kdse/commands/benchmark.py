"""`kdse benchmark`: what a student costs hop by hop, beside RNNoise, on the same audio in the same run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdse.pretrained
from kdse.commands.parser import Parser, positive
from kdse.errors import UserError
from kdse.machine.files import write_text
from kdse.machine.packages import required

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
  kdse benchmark runs/student/checkpoints/last.ckpt --audio noisy.wav
  kdse benchmark cruse-62k student-int8.onnx --rounds 5 --json
"""


def make_parser() -> Parser:
    parser = Parser(
        prog="kdse benchmark",
        description="Per-hop latency, real-time factor, memory and bytes of students in torch, ONNX and int8.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="checkpoint, exported .onnx, or a model in the box (default: all)"
    )
    parser.add_argument("--audio", metavar="FILE", help="audio to run on (default: a speech-like signal in noise)")
    parser.add_argument("--seconds", type=_seconds, default=20.0, help="of the audio; it is repeated (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="times every system hears it (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="of each runtime (default: 1)")
    parser.add_argument("--no-export", action="store_true", help="time checkpoints in torch alone")
    parser.add_argument("--no-int8", action="store_true", help="leave the int8 form of checkpoints out")
    parser.add_argument("--no-rnnoise", action="store_true", help="leave RNNoise out")
    parser.add_argument("--out", metavar="FILE", help="also write the figures to this JSON file")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    return parser


def _seconds(text: str) -> float:
    if positive(text) < 0.1:
        raise argparse.ArgumentTypeError(f"{text}: give 0.1 or more")
    return float(text)


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    Raises:
        ValueError: on a user's mistake, or a system that does not run.
    """
    arguments = make_parser().parse_args(argv)
    for name, value in (("--rounds", arguments.rounds), ("--threads", arguments.threads)):
        if value < 1:
            raise UserError(f"{name} {value}: must be at least one")
    models = {name: kdse.pretrained.find(name) for name in arguments.models or kdse.pretrained.names()}
    for path in models.values():
        if not path.is_file():
            raise UserError(f"{path}: no such file")

    from kdse.deploy.benchmark.measure import measure
    from kdse.deploy.benchmark.runners import RNNOISE, rnnoise_runner

    if not arguments.no_rnnoise:
        rnnoise_runner()  # told now, not after the others have been timed
    audio, rate = _audio(arguments.audio, arguments.seconds)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="kdse-benchmark-") as folder:
        systems: dict[str, str] = {}
        names = [Path(name).name for name in models]
        for name, path in models.items():
            label = Path(name).name if names.count(Path(name).name) == 1 else name  # (paths make wide tables)
            systems |= _forms(label, path, Path(folder), audio, rate, arguments)
        if not arguments.no_rnnoise:
            systems["RNNoise"] = RNNOISE
        measured = measure(systems, audio, rate, arguments.rounds, arguments.threads, _tell)
    about = {
        "machine": _machine(),
        "load_before": load,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "audio": arguments.audio or "speech-like probe in noise",
        "audio_seconds": len(audio) / rate,
    }
    result = about | {"systems": [asdict(m) for m in measured]}
    if arguments.out:
        write_text(arguments.out, json.dumps(result, indent=2))
    print(json.dumps(result, indent=2) if arguments.json else describe(measured, about))
    return 0


def _forms(
    name: str, path: Path, folder: Path, audio: np.ndarray, rate: int, arguments: argparse.Namespace
) -> dict[str, str]:
    """Label to source of what is timed for one MODEL."""
    if path.suffix == ".onnx":
        return {name: str(path)}
    forms = {f"{name} torch": str(path)}
    if arguments.no_export:
        return forms
    soundfile = required("soundfile")
    from kdse.deploy.export.format import Options
    from kdse.deploy.export.write import export_file
    from kdse.models.checkpoint import load_model
    from kdse.models.streaming import can_stream

    model, stem = load_model(path), len(list(folder.iterdir()))
    if not can_stream(model):
        raise UserError(f"{path}: {type(model).__name__} does not stream, so there is no hop to time; `kdse profile`")
    exported = folder / f"{stem}.onnx"
    _tell(f"exporting {name}")
    export_file(model, exported, checkpoint=path)
    forms[f"{name} ONNX"] = str(exported)
    if not arguments.no_int8:
        heard = folder / f"{stem}-calibration"
        heard.mkdir()
        soundfile.write(heard / "audio.wav", audio, rate, subtype="FLOAT")
        small = folder / f"{stem}-int8.onnx"
        _tell(f"quantising {name}")
        export_file(model, small, options=Options(quantize="int8", calibration=heard), checkpoint=path)
        forms[f"{name} int8"] = str(small)
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
    table = Table(box=box.SIMPLE_HEAD)
    heads = ["system", "hop ms", "latency ms", "median ms", "p99 ms", "worst ms", "real-time factor", "x RNNoise"]
    for head in (*heads, "peak MB", "weights kB", "file kB"):
        table.add_column(head, justify="left" if head == "system" else "right")
    for m in measured:
        table.add_row(
            m.label,
            f"{m.hop_ms:g}",
            f"{m.latency_ms:g}",
            f"{m.median_ms:.3f}",
            f"{m.p99_ms:.3f}",
            f"{m.worst_ms:.2f}",
            f"{m.real_time_factor:.4f} ({m.fastest:.4f} to {m.slowest:.4f})",
            "" if yardstick is None else f"{m.real_time_factor / yardstick:.2f}",
            f"{m.peak_bytes / 1e6:.0f}",
            "" if m.weight_bytes is None else f"{m.weight_bytes / 1e3:.0f}",
            "" if m.file_bytes is None else f"{m.file_bytes / 1e3:.0f}",
        )
    console = Console(width=160, file=None, force_terminal=False)
    with console.capture() as text:
        console.print(table)
    load = "" if about["load_before"] is None else f", load before {about['load_before']:.2f}"
    runtimes = ", ".join(sorted({m.runtime for m in measured}))
    return (
        "\n".join(line.rstrip() for line in text.get().strip("\n").splitlines())
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
