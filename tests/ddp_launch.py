"""Starts a script of these tests under torchrun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """One thread a process, and none of what a run in this process left behind: DDP would set its seed again."""
    left = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"}
    return left | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def torchrun(processes: int, *command: object) -> str:
    """Runs a script (or ``-m module``) over so many processes, or alone without torchrun; returns what it printed."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    call = [*launcher, *map(str, command)]
    done = subprocess.run(call, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-6000:]
    return done.stdout + done.stderr
