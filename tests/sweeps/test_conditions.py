"""Flags that a sweep may go on with differently are those that make no other run."""

from __future__ import annotations

import pytest

from kdse.run.identity import identity
from kdse.sweeps.conditions import identifying

FREE = ["data.num_workers", "data.manifest", "model.metric_workers", "trainer.accelerator", "trainer.logger", "wandb",
        "save_every_n_steps"]  # fmt: skip
BOUND = ["data.batch_size", "model.compression", "trainer.devices", "trainer.precision", "seed_everything", "schedule"]


def config(name: str, value: int) -> dict:
    """As `kdse fit` resolves a flag."""
    part, _, rest = name.partition(".")
    if not rest:
        return {part: value}
    return {part: {rest: value} if part == "trainer" else {"class_path": "A", "init_args": {rest: value}}}


@pytest.mark.parametrize("name", [*FREE, *BOUND])
def test_a_flag_counts_if_it_makes_another_run(name):
    makes_another = identity(config(name, 1)) != identity(config(name, 2))
    assert makes_another == (name in BOUND)
    for written in {name, name.replace("data.", "data.init_args.")}:
        assert identifying([f"--{written}=1"]) == ([f"--{written}=1"] if makes_another else [])
