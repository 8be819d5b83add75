"""The number of threads a kdse process computes with, chosen before PyTorch is loaded.

OpenMP's threads wait for each other by spinning. Where one of them shares its core with another process, every
operation waits for that one, and all of them together can take many times as long as one thread alone. So half of the
cores stay free by default: our choice, which costs speed on an idle machine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: The variables that OpenMP, MKL and OpenBLAS read when they are loaded; child processes inherit them.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MOST = 8  # our choice: the operations of these networks are small
_ours = False  # whether `choose` set the variables


def choose() -> str:
    """Sets the number of threads of this process and its children, unless the environment has one; returns a sentence
    about it for the log."""
    global _ours
    available = available_cores()
    if os.environ.get(VARIABLES[0]):
        return f"threads: {os.environ[VARIABLES[0]]}, as OMP_NUM_THREADS says ({available} cores)"
    _ours, count = True, min(MOST, max(1, available // 2))
    os.environ.update(dict.fromkeys(VARIABLES, str(count)))
    if "torch" in sys.modules:  # too late for the variables
        sys.modules["torch"].set_num_threads(count)
    return (
        f"threads: {count} of {available} cores, so that a busy core holds nothing up (OMP_NUM_THREADS=N sets others)"
    )


def share(processes: int) -> dict[str, str]:
    """Environment of each of so many processes at once, so that they do not wait for each other's cores; empty if the
    user set a number."""
    if os.environ.get(VARIABLES[0]) and not _ours:
        return {}
    return dict.fromkeys(VARIABLES, str(min(MOST, max(1, available_cores() // max(2, processes)))))


def available_cores() -> int:
    """Cores that this process may use, at least 1: by its affinity, and by the quota of its container, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup"))
    return allowed if quota is None else max(1, min(allowed, quota))


def _quota(root: Path) -> int | None:
    """Whole cores that Linux' control groups grant (versions 2 and 1), None without a limit."""
    try:
        if (root / "cpu.max").exists():
            limit, period = (root / "cpu.max").read_text().split()
        else:
            limit, period = ((root / "cpu" / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if limit in ("max", "-1") else -(-int(limit) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
