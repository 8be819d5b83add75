"""What a corpus of a million files costs a training at its start, with a manifest and without one.

    python benchmarks/manifest_scale.py [--files 1000000] [--walked 10000] [--workers 2]

Writes a manifest of many entries (no audio: nothing is opened) and measures, each in a process of its own, how long
`Mixtures` takes from its construction to its first batch's crops being drawn, the peak memory that this adds, and what
a data worker is sent. Beside it a folder of small real wav files is walked as without a manifest, and its time scaled
to as many files. The ratio is within one run on one machine; a network file system walks much slower than this disk.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PARTS = [f"{kind}/{split}" for kind in ("speech", "noise") for split in ("train", "valid", "test")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--walked", type=int, default=10_000, help="files of the folder that is walked")
    parser.add_argument("--workers", type=int, default=2, help="of the index of that folder")
    parser.add_argument("--only", choices=("start", "walk"), help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps({"start": start, "walk": walk}[arguments.only](arguments.root)))
        return
    with tempfile.TemporaryDirectory() as folder:
        big, small = Path(folder) / "big", Path(folder) / "small"
        seconds = invent(big, arguments.files)
        size = (big / "manifest.kdse").stat().st_size
        print(f"manifest of {arguments.files} files: {size / 1e6:.0f} MB, written in {seconds:.1f} s")
        for turn in ("first", "second"):
            cost = apart("start", big)
            print(
                f"start of Mixtures ({turn}): {cost['seconds']:.2f} s (manifest alone {cost['load_seconds']:.2f} s);"
                f" {cost['peak_mb']:.0f} MB more at the peak, of them mapped and shared {cost['mapped_mb']:.0f};"
                f" {cost['sent']} bytes to a data worker, which is ready after {1e3 * cost['worker_seconds']:.0f} ms"
            )
        record(small, arguments.walked)
        walked = apart("walk", small)
        share = arguments.files / arguments.walked
        print(
            f"walk of {arguments.walked} files without a manifest: {walked['seconds']:.2f} s, "
            f"{walked['peak_mb']:.0f} MB; for {arguments.files}: {share * walked['seconds']:.0f} s"
        )
        print(f"ratio of start-up times: {share * walked['seconds'] / cost['seconds']:.0f}")
        indexed = index(small, arguments.workers)
        print(
            f"index of {arguments.walked} files by {arguments.workers} processes: {indexed:.1f} s, "
            f"{arguments.walked / indexed:.0f} files a second"
        )


def invent(root: Path, files: int) -> float:
    """A manifest of files that do not exist, nine in ten of them training speech; the seconds it took."""
    from kdse.audio.listing import Measured
    from kdse.data.corpus.manifest import write

    rng = np.random.default_rng(0)
    counts = [round(files * share) for share in (0.9, 0.005, 0.005, 0.085, 0.0025, 0.0025)]
    frames = rng.integers(16000, 30 * 16000, files).tolist()
    rows = []
    for part, count in zip(PARTS, counts, strict=True):
        (root / part).mkdir(parents=True)
        rows += [
            Measured(f"{part}/reader_{i // 300:05d}/book_{i:07d}_chp_0001_reader_{i // 300:05d}_{i % 300}.wav",
                     f, 16000, 1, 2 * f + 44, 1_700_000_000_000_000_000 + i, "")
            for i, f in zip(range(count), frames[len(rows) :], strict=False)
        ]  # fmt: skip
    started = time.perf_counter()
    write(root / "manifest.kdse", str(root), "header", rows)
    return time.perf_counter() - started


def record(root: Path, files: int) -> None:
    """That many small wav files, split like the invented ones."""
    import soundfile

    wave = np.random.default_rng(0).standard_normal(1600) / 10
    for part, share in zip(PARTS, (0.9, 0.005, 0.005, 0.085, 0.0025, 0.0025), strict=True):
        for i in range(round(files * share)):
            folder = root / part / f"reader_{i // 300:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            soundfile.write(str(folder / f"book_{i:07d}.wav"), wave, 16000)


def apart(what: str, root: Path) -> dict[str, float]:
    """Runs a measurement in a fresh process."""
    command = [sys.executable, __file__, "--only", what, "--root", str(root)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def start(root: str) -> dict[str, float]:
    """A training data module up to the first draws from its corpora."""
    from kdse.data import Mixtures
    from kdse.data.corpus.manifest import load

    memory = Memory()
    started = time.perf_counter()
    data = Mixtures(root, seed=0)
    items = data.mixture_set("train", data.snr_db, 32000, 0, False)
    data.mixture_set("valid", data.snr_db, 64000, 32, False)
    rng = np.random.default_rng(0)
    for corpus in (items.speech, items.noise):
        for i in rng.integers(len(corpus), size=64).tolist():
            assert corpus.samples(i, 16000) >= 16000 and corpus.file(i).name
    seconds = time.perf_counter() - started
    peak, mapped = memory.peak_and_mapped()
    started = time.perf_counter()
    load(Path(root) / "manifest.kdse")
    load_seconds = time.perf_counter() - started
    sent = pickle.dumps(items)
    started = time.perf_counter()
    pickle.loads(sent)
    worker = time.perf_counter() - started
    return {
        "seconds": seconds, "load_seconds": load_seconds, "peak_mb": peak, "mapped_mb": mapped, "sent": len(sent),
        "worker_seconds": worker,
    }  # fmt: skip


def walk(root: str) -> dict[str, float]:
    """The same from the files themselves."""
    from kdse.data import Mixtures

    memory = Memory()
    started = time.perf_counter()
    data = Mixtures(root, seed=0)
    for split in ("train", "valid"):
        data.mixture_set(split, data.snr_db, 1600, 32, False)
    return {"seconds": time.perf_counter() - started, "peak_mb": memory.peak_and_mapped()[0]}


def index(root: Path, workers: int) -> float:
    """Seconds of the index command's work."""
    from kdse.data.corpus.indexing import build

    started = time.perf_counter()
    build(root, workers=workers)
    return time.perf_counter() - started


class Memory:
    """Resident memory of this process in MB since a moment: the most of it, and how much of that is a mapped file."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        self.before = self._fields()

    def peak_and_mapped(self) -> tuple[float, float]:
        now = self._fields()
        return now["VmHWM"] - self.before["VmRSS"], now["RssFile"] - self.before["RssFile"]

    def _fields(self) -> dict[str, float]:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM", "RssFile")}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
