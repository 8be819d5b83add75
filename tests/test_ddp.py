"""Plain DDP over two gloo processes survives the switch and trains what one process with the global batch trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.timeout(900)
REPOSITORY = Path(__file__).resolve().parent.parent


def run(folder: Path, processes: int, batch: int, gather: bool = True) -> dict:
    folder.mkdir()
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, "tests/ddp_run.py", str(folder), str(batch), "gather" if gather else "local"]
    # (a run of the command line in this process leaves its seed in the environment, and DDP would set it again)
    environment = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "weights.pt", weights_only=True)


def largest_difference(a: dict, b: dict) -> float:
    return max(float((a[part][k] - b[part][k]).abs().max()) for part in a for k in a[part])


def test_two_processes_with_gathering_agree_with_one_on_the_same_global_batch_across_the_switch(tmp_path):
    alone = run(tmp_path / "one", 1, batch=4)
    together = run(tmp_path / "two", 2, batch=2)
    apart = run(tmp_path / "local", 2, batch=2, gather=False)
    assert largest_difference(alone, together) < 1e-6
    assert largest_difference(alone, apart) > 1e-5  # without gathering the Grams are other Grams
