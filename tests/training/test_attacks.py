"""What --overwrite=true leaves alone, and checkpoints that are larger than their file."""

from __future__ import annotations

import pytest
import torch

from kdse.cli import main
from kdse.errors import UserError
from kdse.models.checkpoint import describe, load_model
from tests.tiny_run import write_config
from tests.toys import make_student


def test_overwrite_removes_no_run_that_trains_nothing_or_learns_from_it(tmp_path, capsys):
    config = write_config(tmp_path)
    assert main(["fit", "--config", str(config)]) == 0
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    before = best.read_bytes()
    for flag in ("trainer.fast_dev_run=true", "trainer.max_steps=0", f"model.teacher_checkpoint={best}"):
        assert main(["fit", "--config", str(config), "--overwrite=true", f"--{flag}"]) == 2, flag
        assert "--overwrite" in capsys.readouterr().err.splitlines()[-1]
    assert best.read_bytes() == before


def test_a_small_checkpoint_of_one_value_or_of_nested_lists_asks_for_no_memory_and_no_hours(tmp_path):
    about = describe(make_student())
    about["model"]["init_args"]["channels"] = [40000, 40000, 8, 8]
    state = {f"model.{k}": torch.zeros(1).expand(40000, 40000, 2, 3) for k in ("a", "b")}
    torch.save({"state_dict": state, "kdse": about}, tmp_path / "a.ckpt")
    nested: list = [1]
    for _ in range(40):
        nested = [nested, nested]
    about["model"]["init_args"]["channels"] = nested
    torch.save({"state_dict": {}, "kdse": about}, tmp_path / "b.ckpt")
    for name, said in (("a", "asks for more than"), ("b", "nested too deeply")):
        with pytest.raises(UserError, match=said):
            load_model(tmp_path / f"{name}.ckpt")
