"""Memory that a process frees is there for its next step."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource
from kdse.machine.memory import keep_freed_memory
pages = []
if keep_freed_memory():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(2**25)  # 8,192 pages of 4 kB
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*pages)
"""


def test_memory_that_is_freed_and_taken_again_is_not_fetched_from_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    pages = [int(count) for count in done.stdout.split()]
    if not pages:
        pytest.skip("another C library than GNU's")
    assert pages[-1] < 100
