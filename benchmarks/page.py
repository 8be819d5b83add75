"""How long the report page takes to build, beside plain FLAC encoding of the same signals, and how large it is.

    python benchmarks/page.py [--files 50] [--systems 6] [--seconds 10] [--repeats 3]

Target: 50 files of noisy, clean and 6 systems, 10 s each at 16 kHz, in under a minute on one core. Prints seconds, MB
and the ratio of medians of interleaved runs in one process. The signals are speech-like tones in noise at 0 to 20 dB:
noise is what FLAC and PNG cannot make small, so real pages are smaller.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kdse.report.contents import ListeningFile, Report
from kdse.report.page.audio import flac
from kdse.report.page.page import write_page

RATE = 16000
TARGET_S = 60.0


def voice(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Bursts of a harmonic tone with pauses, at about -20 dBFS."""
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = 100 * (1 + rng.random()) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * t))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    tones = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.1 * tones * np.clip(2 * np.sin(2 * np.pi * 2 * t + rng.random() * 6) + 1, 0, 1)).astype(np.float32)


def listening_file(index: int, systems: int, seconds: float) -> ListeningFile:
    rng = np.random.default_rng(index)
    clean = voice(seconds, rng)
    noise = 0.05 * rng.standard_normal(len(clean)).astype(np.float32)
    waves = {"noisy": clean + noise, "clean": clean}
    waves |= {f"system{i}": clean + noise * np.float32(10 ** (-(i + 1) / 6)) for i in range(systems)}
    scores = {system: {"si_sdr": float(rng.uniform(0, 20))} for system in waves if system != "clean"}
    return ListeningFile(f"file{index:03d}", "synthetic", 0.0, waves, scores)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--systems", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    files = [listening_file(index, arguments.systems, arguments.seconds) for index in range(arguments.files)]
    report = Report("Benchmark", [], [], [], [], files, RATE, ("si_sdr",))
    waves = [wave for file in files for wave in file.waves.values()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        write_page(Report("Warm-up", [], [], [], [], files[:1], RATE, ("si_sdr",)), path)
        pages, plain = [], []
        for _ in range(arguments.repeats):
            pages.append(seconds_of(lambda: write_page(report, path)))
            plain.append(seconds_of(lambda: [flac(wave, 0.5, RATE) for wave in waves]))
        megabytes = path.stat().st_size / 1e6
    page, encoding = statistics.median(pages), statistics.median(plain)
    print(f"{len(files)} files, {len(waves)} signals of {arguments.seconds:g} s: page {page:.1f} s, {megabytes:.0f} MB")
    print(f"plain FLAC encoding {encoding:.1f} s: ratio {page / encoding:.1f}")
    print(f"target {TARGET_S:.0f} s on one core: {'met' if page < TARGET_S else 'missed'}")


if __name__ == "__main__":
    main()
