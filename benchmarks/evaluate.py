"""How much `kdse evaluate` adds to the bare metric calls, and what a second worker gains.

    python benchmarks/evaluate.py [--files 200] [--seconds 10]

Times, within one run and on files written for it: PESQ, STOI and eSTOI called in a plain loop on audio that is
already in memory; `kdse evaluate` with one worker; with two. One worker and the main process share the machine's
cores; give it two idle ones.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16000
METRICS = ("pesq_wb", "stoi", "estoi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pairs(root, arguments.files, arguments.seconds)
        bare = bare_calls(root)
        print(f"bare metric calls    {bare:7.1f} s for {arguments.files} files of {arguments.seconds:g} s", flush=True)
        times = {}
        for workers in (1, 2):
            started = time.perf_counter()
            command = [
                sys.executable,
                "-m",
                "kdse.cli",
                "evaluate",
                "--paired",
                str(root / "noisy"),
                str(root / "clean"),
            ]
            command += ["--metrics", *METRICS, "--workers", str(workers), "--out", str(root / f"out{workers}")]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times[workers] = time.perf_counter() - started
            print(f"evaluate, {workers} worker(s) {times[workers]:7.1f} s", flush=True)
        same = len({(root / f"out{workers}" / "per_file.csv").read_bytes() for workers in times}) == 1
    print(f"overhead over the bare calls, one worker: {times[1] / bare - 1:+.1%} (start of the program included)")
    print(f"two workers are {times[1] / times[2]:.2f} times as fast as one; same digits: {'yes' if same else 'NO'}")


def write_pairs(root: Path, files: int, seconds: float) -> None:
    """Speech-like pairs: a modulated harmonic tone, and the same in noise."""
    for name in ("noisy", "clean"):
        (root / name).mkdir()
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    for index in range(files):
        rng = np.random.default_rng(index)
        pitch_hz = 120 + 20 * np.sin(2 * np.pi * 0.7 * time_s + index)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
        tone = sum(np.sin(k * phase) / k for k in range(1, 25))
        clean = 0.05 * np.clip(np.sin(2 * np.pi * 2.5 * time_s + index), 0.01, 1) * tone
        noisy = clean + 0.02 * rng.standard_normal(clean.size)
        for name, wave in (("noisy", noisy), ("clean", clean)):
            soundfile.write(root / name / f"{index:04d}.wav", wave, RATE_HZ, subtype="PCM_16")


def bare_calls(root: Path) -> float:
    """Seconds that pesq and pystoi take on these files by themselves."""
    import pesq
    import pystoi

    pairs = [
        tuple(soundfile.read(root / name / path.name)[0] for name in ("clean", "noisy"))
        for path in sorted((root / "clean").iterdir())
    ]
    started = time.perf_counter()
    for clean, noisy in pairs:
        pesq.pesq(RATE_HZ, clean, noisy, "wb")
        pystoi.stoi(clean, noisy, RATE_HZ, extended=False)
        pystoi.stoi(clean, noisy, RATE_HZ, extended=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
