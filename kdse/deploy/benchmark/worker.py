"""Times one system in a process of its own: `python -m kdse.deploy.benchmark.worker JOB.json`.

A process a system makes its peak memory its own, and lets each runtime start as a user's would.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from kdse.deploy.benchmark.runners import open_runner

#: Hops before the clock starts: caches, lazy allocations.
WARM_UP = 20


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Runs a job and returns what it measured.

    Args:
        job: "source" and "threads" of `open_runner`, "audio" (a .npy file of float32 samples at the runner's rate),
            "times" (the .npy file to write the seconds of each hop to).
    """
    empty = peak_bytes()
    start = time.perf_counter()
    runner = open_runner(job["source"], job["threads"])
    loaded = time.perf_counter() - start
    audio = np.load(job["audio"])
    hops = audio[: len(audio) // runner.hop_samples * runner.hop_samples].reshape(-1, runner.hop_samples)
    times, finite = np.zeros(len(hops)), True
    for hop in hops[:WARM_UP]:
        runner.process(hop)
    for index, hop in enumerate(hops):
        begin = time.perf_counter()
        enhanced = runner.process(hop)
        times[index] = time.perf_counter() - begin
        finite = finite and bool(np.isfinite(enhanced).all())
    np.save(job["times"], times)
    return {
        "sample_rate_hz": runner.sample_rate_hz,
        "hop_samples": runner.hop_samples,
        "latency_samples": runner.latency_samples,
        "runtime": runner.runtime,
        "load_seconds": loaded,
        "hops": len(hops),
        "finite": finite,
        "peak_bytes": peak_bytes(),
        "python_bytes": empty,
    }


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # (what getrusage reports on Linux includes the parent's memory before exec)
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # (not on Windows)

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def main() -> int:
    try:
        print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))))
    except ValueError as error:
        print(json.dumps({"error": str(error)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
