"""The number of threads follows the cores that are there, and the user's word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdse.machine import threads


def _choose(environment: dict[str, str]) -> list[str]:
    code = (
        "from kdse.machine import threads; said = threads.choose(); import sys; assert 'torch' not in sys.modules; "
        "import torch, os; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'], said, sep='|')"
    )
    clean = {k: v for k, v in os.environ.items() if k not in threads.VARIABLES} | environment
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    return done.stdout.strip().split("|")


def test_half_of_the_cores_are_left_free() -> None:
    used, inherited, said = _choose({})
    expected = str(min(threads.MOST, max(1, threads.available_cores() // 2)))
    assert (used, inherited) == (expected, expected)
    assert said.startswith(f"threads: {expected} of {threads.available_cores()} cores")


def test_the_number_the_user_set_stays() -> None:
    _, inherited, said = _choose({"OMP_NUM_THREADS": "2"})
    assert inherited == "2"
    assert said.startswith("threads: 2, as OMP_NUM_THREADS says")


@pytest.mark.parametrize(
    ("files", "granted"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_counts(tmp_path: Path, files: dict[str, str], granted: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads._quota(tmp_path) == granted


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_affinity_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from kdse.machine.threads import available_cores; print(available_cores())"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "1"
    )


def test_processes_at_once_share_the_cores_unless_the_user_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 16)
    monkeypatch.setattr(threads, "_ours", False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads.share(n)["OMP_NUM_THREADS"] for n in (1, 2, 4, 5, 40)] == ["8", "8", "4", "3", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.share(4) == {}
