"""Batch jobs as the tests see them: submit, wait, state, log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPTS = REPOSITORY / "experiments" / "cluster"
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def environment(**more: str) -> dict[str, str]:
    """What a job inherits: this Python and repository, one thread, and a first node that is found (both are here)."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PL_", "SUBMITIT_")) or k == "SLURM_CONF"
    }
    kept |= {"VENV": sys.prefix, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return {**kept, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", **more}


def tell(*command: str) -> str:
    """Output of one of SLURM's commands."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


class Job:
    """A batch job by its number, or one task of an array by ``NUMBER_INDEX``."""

    def __init__(self, number: str, log: Path) -> None:
        self.number, self.log_path = number, log

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def shown(self, field: str) -> str:
        text = tell("scontrol", "show", "job", self.number)
        found = re.search(rf"\b{field}=(\S*)", text)
        assert found, f"{field} is not in {text}"
        return found[1]

    @property
    def state(self) -> str:
        return self.shown("JobState")

    def wait(self, until: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, f"job {self.number} ({self.state}): not {what} in {seconds:g} s\n{self.log}"
            assert self.state not in OVER or until(), f"job {self.number} is {self.state} before {what}\n{self.log}"
            time.sleep(0.1)

    def wait_for_end(self, seconds: float = 120.0) -> str:
        """Its last state. A job that was queued again starts after some seconds, not after SLURM's two minutes."""
        end = time.monotonic() + seconds
        hurried = False
        while self.state not in OVER:
            assert time.monotonic() < end, f"job {self.number} is {self.state} after {seconds:g} s\n{self.log}"
            if not hurried and self.state == "PENDING" and self.shown("Reason") == "BeginTime":
                # (not at once: a job cannot start in the very second in which its last start was ended)
                tell("scontrol", "update", f"job={self.number}", "StartTime=now+3")
                hurried = True
            time.sleep(0.1)
        return self.state


def sbatch(
    folder: Path, script: str, *flags: str, options: Iterable[str] = (), env: dict[str, str] | None = None
) -> Job:
    """Submits a shipped script from ``folder`` with options that win over its header, and flags for `kdse fit`."""
    log = folder / f"{Path(script).stem}.log"
    command = ["sbatch", "--parsable", f"--output={log}", *options, str(SCRIPTS / script), *flags]
    done = subprocess.run(command, cwd=folder, env=env or environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return Job(done.stdout.strip(), log)
