"""Times one system in a process of its own: `python -m kdse.deploy.benchmark.worker SOURCE AUDIO.npy THREADS`.

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
from kdse.errors import UserError


def run(source: str, audio: str, threads: int) -> dict[str, Any]:
    """What `measure` needs to know of one run, with the seconds of each hop.

    Args:
        source, threads: as in `open_runner`.
        audio: a .npy file of float32 samples at the runner's rate.
    """
    python_bytes = peak_bytes()
    start = time.perf_counter()
    runner = open_runner(source, threads)
    loaded = time.perf_counter() - start
    samples = np.load(audio)
    hops = samples[: len(samples) // runner.hop_samples * runner.hop_samples].reshape(-1, runner.hop_samples)
    seconds, finite = [], True
    for hop in hops[:20]:  # fills caches before the clock starts
        runner.process(hop)
    for hop in hops:
        begin = time.perf_counter()
        enhanced = runner.process(hop)
        seconds.append(time.perf_counter() - begin)
        finite = finite and bool(np.isfinite(enhanced).all())
    about = {name: value for name, value in runner._asdict().items() if name != "process"}
    memory = {"peak_bytes": peak_bytes(), "python_bytes": python_bytes}
    return about | memory | {"load_seconds": loaded, "seconds": seconds, "finite": finite}


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


if __name__ == "__main__":
    try:
        print(json.dumps(run(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
