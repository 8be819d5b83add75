"""The result of a run that has ended is that of its last step, wherever the end falls between validations."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdse.cli import main
from kdse.models.checkpoint import read_checkpoint
from kdse.run.folder import result
from kdse.run.log import training_log, validations
from tests.tiny_run import write_config

pytestmark = pytest.mark.integration


def fit(folder: Path, *flags: str, steps: int) -> Path:
    """A run in epochs of three steps."""
    assert main(["fit", "--config", str(write_config(folder, steps)), *flags]) == 0
    return folder / "run"


@pytest.mark.parametrize(("steps", "validated"), [(2, [2]), (4, [3, 4]), (6, [3, 6])],
                         ids=["within the first epoch", "between validations", "at one"])  # fmt: skip
def test_the_last_step_is_validated_once(steps, validated, tmp_path):
    run = fit(tmp_path, steps=steps)
    lines = validations(run)
    assert [line["step"] for line in lines] == validated
    assert result(run)["step"] == steps and result(run)["metrics"] == lines[-1]["metrics"] != {}
    logged = training_log(run).set_index("step")["val/si_sdr"].dropna()
    assert logged.to_dict() == pytest.approx({line["step"] - 1: line["metrics"]["val/si_sdr"] for line in lines})
    best = max(lines, key=lambda line: line["metrics"]["val/si_sdr"])
    assert (
        read_checkpoint(run / "checkpoints" / "best.ckpt")["global_step"] == best["step"] == result(run)["best"]["step"]
    )
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == steps


def test_a_run_without_validation_gets_none(tmp_path):
    run = fit(tmp_path, "--trainer.limit_val_batches=0", steps=4)
    assert validations(run) == [] and result(run)["metrics"] == {}
