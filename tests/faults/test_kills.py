"""Killed runs: whatever dies and whenever, the next start reaches the undisturbed weights and repeats nothing twice."""

from __future__ import annotations

import re
import signal
import sys

import pandas as pd
import pytest

from kdse.machine.processes import STOPPED
from kdse.models.checkpoint import LAST, read_checkpoint
from kdse.run.log import training_log
from tests.faults.runs import STEPS, assert_same_end, fit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
DDP = ("--trainer.devices=2", "--trainer.strategy=ddp")


def exit_codes(torchrun_said: str) -> set[int]:
    """Of the processes that ended with an error by themselves."""
    return {int(code) for code in re.findall(r"exitcode\s*:\s*(-?\d+)", torchrun_said)}


@pytest.mark.parametrize("harm", ["kill after step 5", "kill while writing checkpoint 4", "kill during validation 3"])
def test_a_killed_run_goes_on_to_the_undisturbed_weights(harm, config, undisturbed, tmp_path):
    run = tmp_path / "run"
    assert fit(config, run, harm=harm).returncode == -signal.SIGKILL
    before = read_checkpoint(run / "checkpoints" / LAST)["global_step"]
    done = fit(config, run)
    assert done.returncode == 0, done.stderr
    assert 0 < before < STEPS and str(run / "checkpoints" / LAST) in done.stdout
    assert_same_end(run, undisturbed)
    assert not list((run / "checkpoints").glob(".*"))  # nothing half written is left


def test_logged_steps_of_a_killed_run_are_those_of_an_undisturbed_one(config, undisturbed, tmp_path):
    run = tmp_path / "run"
    fit(config, run, harm="kill after step 5")
    assert fit(config, run).returncode == 0
    column = "train/loss"
    ours, theirs = (training_log(folder)[column].dropna() for folder in (run, undisturbed))
    pd.testing.assert_series_equal(ours, theirs)


def test_a_killed_rank_ends_the_job_and_the_next_start_reaches_the_same_weights(config, tmp_path):
    # (batches of 2 for each of two processes: three steps an epoch as before)
    data = ("--data.batch_size=2",)
    module = ("--module", "kdse.cli")
    undisturbed, run, stopped = (tmp_path / name for name in ("undisturbed", "killed", "stopped"))
    done = fit(config, undisturbed, *DDP, *data, prefix=(*TORCHRUN, *module))
    assert done.returncode == 0, done.stderr[-3000:]

    once = fit(config, run, *DDP, *data, harm="kill after step 5", rank=1, prefix=(*TORCHRUN, *module))
    assert once.returncode != 0
    stale = fit(config, run, *DDP, *data, prefix=(*TORCHRUN, "tests/faults/stale_rank.py"))
    assert stale.returncode != 0 and "checkpoints of different optimizer steps (4, 3)" in stale.stderr
    again = fit(config, run, *DDP, *data, prefix=(*TORCHRUN, *module))
    assert again.returncode == 0, again.stderr[-3000:]
    assert_same_end(run, undisturbed)

    # a signal in a validation of which the processes hold unequal shares: all end with the same code, none waits
    other = tmp_path / "validating"
    validating = fit(config, other, *DDP, *data, harm="sigusr1 during validation 1", prefix=(*TORCHRUN, *module))
    assert exit_codes(validating.stderr) == {STOPPED}

    # a signal to one process only: both stop after the same step
    signalled = fit(config, stopped, *DDP, *data, harm="sigterm after step 2", rank=1, prefix=(*TORCHRUN, *module))
    assert exit_codes(signalled.stderr) == {STOPPED}
    assert read_checkpoint(stopped / "checkpoints" / LAST)["global_step"] == 2
    assert fit(config, stopped, *DDP, *data, prefix=(*TORCHRUN, *module)).returncode == 0
    assert_same_end(stopped, undisturbed)
