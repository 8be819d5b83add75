"""Times several systems on the same audio in turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdse.errors import UserError
from kdse.machine.processes import worker_environment
from kdse.pretrained import is_onnx


@dataclass(frozen=True)
class Measured:
    """What one system costs, hop by hop.

    Latencies are milliseconds of computing per hop over all rounds; the real-time factor is computing time over audio
    time: the median of the rounds, with the fastest and slowest. peak_bytes is the largest resident memory of the
    process, Python and the runtime included; python_bytes of it were there before the runtime was loaded.
    weight_bytes: the initializers of a graph or the tensors of a checkpoint; None where unknown.
    """

    label: str
    runtime: str
    hop_ms: float
    latency_ms: float
    median_ms: float
    p99_ms: float
    worst_ms: float
    real_time_factor: float
    fastest: float
    slowest: float
    hops: int
    load_seconds: float
    peak_bytes: int
    python_bytes: int
    file_bytes: int | None
    weight_bytes: int | None


def measure(
    systems: dict[str, str],
    audio: np.ndarray,
    sample_rate_hz: int,
    rounds: int = 3,
    threads: int = 1,
    tell: Callable[[str], Any] = lambda text: None,
) -> list[Measured]:
    """Runs every system once a round, each time in a fresh process.

    Args:
        systems: label to source (`kdse.deploy.benchmark.runners.open_runner`).
        audio: mono float32 ``[N]``; each system hears it at its own rate.
        sample_rate_hz: of the audio.
        rounds: times each system hears it.
        threads: of each runtime.
        tell: called with a line of progress.

    Raises:
        ValueError: if a system does not run, or returns NaN or infinite samples.
    """
    reports: dict[str, list[dict[str, Any]]] = {label: [] for label in systems}
    rates = {label: _rate_of(source) for label, source in systems.items()}
    with tempfile.TemporaryDirectory() as folder:
        for rate in {*rates.values()}:
            np.save(f"{folder}/{rate}.npy", _resampled(audio, sample_rate_hz, rate))
        for number in range(rounds):
            for label, source in systems.items():
                tell(f"round {number + 1} of {rounds}: {label}")
                reports[label].append(_run(label, source, f"{folder}/{rates[label]}.npy", rates[label], threads))
    return [_summary(label, source, reports[label]) for label, source in systems.items()]


def _resampled(audio: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    from scipy.signal import resample_poly

    divisor = math.gcd(from_hz, to_hz)
    wave = audio if from_hz == to_hz else resample_poly(audio.astype(np.float32), to_hz // divisor, from_hz // divisor)
    return np.clip(wave, -1, 1).astype(np.float32)


def _run(label: str, source: str, audio: str, rate: int, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "kdse.deploy.benchmark.worker", source, audio, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=worker_environment(threads))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"{label}: did not run ({last})")
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if "error" in report:
        raise UserError(f"{label}: {report['error']}")
    if report["sample_rate_hz"] != rate:
        raise UserError(f"{label}: works at {report['sample_rate_hz']} Hz and heard audio of {rate} Hz")
    if not report["finite"]:
        raise UserError(f"{label}: returned NaN or infinite samples; its timing would mean nothing")
    if not report["seconds"]:
        raise UserError(f"{label}: the audio is shorter than one of its hops; give a longer --audio or --seconds")
    return report


def _rate_of(source: str) -> int:
    """The sample rate a system works at, read without starting its runtime."""
    from kdse.deploy.benchmark.runners import RNNOISE

    if source == RNNOISE:
        return 48000
    if is_onnx(source):
        from kdse.models.onnx_student import read_metadata

        about = read_metadata(source)
        if about is None:
            raise UserError(f"{source}: was not written by kdse export; make one: kdse export CKPT --streaming")
        return int(about["sample_rate_hz"])
    from kdse.models.checkpoint import read_checkpoint

    return int(read_checkpoint(source).get("kdse", {}).get("sample_rate_hz", 16000))


def _summary(label: str, source: str, reports: list[dict[str, Any]]) -> Measured:
    first, path = reports[0], Path(source)
    times = 1000 * np.concatenate([report["seconds"] for report in reports])
    hop_seconds = first["hop_samples"] / first["sample_rate_hz"]
    factors = [float(np.mean(report["seconds"])) / hop_seconds for report in reports]
    return Measured(
        label=label,
        runtime=first["runtime"],
        hop_ms=1000 * hop_seconds,
        latency_ms=1000 * first["latency_samples"] / first["sample_rate_hz"],
        median_ms=float(np.median(times)),
        p99_ms=float(np.percentile(times, 99)),
        worst_ms=float(times.max()),
        real_time_factor=float(np.median(factors)),
        fastest=min(factors),
        slowest=max(factors),
        hops=len(times),
        load_seconds=min(report["load_seconds"] for report in reports),
        peak_bytes=max(report["peak_bytes"] for report in reports),
        python_bytes=min(report["python_bytes"] for report in reports),
        file_bytes=path.stat().st_size if path.is_file() else None,
        weight_bytes=weight_bytes(path) if path.is_file() else None,
    )


def weight_bytes(path: Path) -> int:
    """Bytes of a graph's initializers, or of a checkpoint's model tensors."""
    if is_onnx(path):
        from kdse.deploy.export.onnx_graph import initializer_bytes

        return initializer_bytes(path.read_bytes())
    from kdse.models.checkpoint import MODEL_PREFIX, read_checkpoint

    state = read_checkpoint(path)["state_dict"]
    return sum(t.numel() * t.element_size() for name, t in state.items() if name.startswith(MODEL_PREFIX))
