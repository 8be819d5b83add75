"""Memory that a process frees is there for its next step."""

from __future__ import annotations

import pytest
import torch

from kdse.machine.memory import keep_freed_memory

resource = pytest.importorskip("resource")


def test_memory_that_is_freed_and_taken_again_is_not_fetched_from_the_system() -> None:
    if not keep_freed_memory():
        pytest.skip("another C library than GNU's")
    pages = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(8, 2**20)  # 32 MB: 8,192 pages of 4 kB
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert pages[-1] < 100
