"""Plain DDP over two gloo processes survives the switch and trains what one process with the global batch trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.ddp_launch import torchrun

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def run(folder: Path, processes: int, batch: int, gather: bool = True, *more: str) -> dict:
    folder.mkdir()
    torchrun(processes, "tests/ddp_run.py", folder, batch, "gather" if gather else "local", *more)
    return torch.load(folder / "weights.pt", weights_only=True)


def largest_difference(a: dict, b: dict) -> float:
    return max(float((a[part][k] - b[part][k]).abs().max()) for part in a for k in a[part])


def test_two_processes_with_gathering_agree_with_one_on_the_same_global_batch_across_the_switch(tmp_path):
    alone = run(tmp_path / "one", 1, batch=4)
    together = run(tmp_path / "two", 2, batch=2)
    apart = run(tmp_path / "local", 2, batch=2, gather=False)
    assert largest_difference(alone, together) < 1e-6
    assert largest_difference(alone, apart) > 1e-5  # without gathering the Grams are other Grams


@pytest.mark.slow
def test_compiled_processes_agree_with_an_eager_one_across_the_switch(tmp_path):
    alone = run(tmp_path / "one", 1, 4)
    together = run(tmp_path / "two", 2, 2, True, "compiled")
    assert largest_difference(alone, together) < 1e-5
