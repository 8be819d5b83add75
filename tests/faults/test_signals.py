"""A run that is stopped by a signal ends with exit code 75 (Ctrl-C: 130) and, started again, as if undisturbed."""

from __future__ import annotations

import pytest
import torch

from kdse.machine.processes import INTERRUPTED, STOPPED
from kdse.models.checkpoint import LAST
from kdse.run.folder import result
from tests.data.small_corpus import make_corpus
from tests.faults.runs import assert_same_end, fit, make_config

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("harm", "step"),
    [
        ("sigterm after step 2", 2),  # in the middle of an epoch
        ("sigusr1 after step 3", 3),  # its last step: validation and the learning rate's next value are still to come
        ("sigterm after step 4", 4),  # the switch
        ("sigint during validation 3", 6),  # (two batches each)
        ("sigint after step 2", 2),  # Ctrl-C
    ],
)
def test_a_stopped_run_goes_on_to_the_undisturbed_weights(harm, step, config, undisturbed, tmp_path):
    run = tmp_path / "run"
    stopped = fit(config, run, harm=harm)
    assert stopped.returncode == (INTERRUPTED if "sigint" in harm else STOPPED), stopped.stderr
    assert f"--run_dir={run} --resume=true" in stopped.stderr and result(run) is None
    assert torch.load(run / "checkpoints" / LAST, weights_only=True)["global_step"] == step
    assert fit(config, run).returncode == 0
    assert_same_end(run, undisturbed)


@pytest.mark.parametrize("name", ["sigterm", "sigint"])
def test_a_signal_to_every_process_of_a_job_leaves_data_and_scoring_processes_for_the_last_step(name, tmp_path):
    corpus = make_corpus(tmp_path / "corpus")
    data = {
        "class_path": "kdse.data.Mixtures",
        "init_args": {
            "root": str(corpus), "segment_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 40, "num_workers": 2,
            "validation_items": 2, "validation_seconds": 1.0,
        },
    }  # fmt: skip
    config = make_config(tmp_path, data=data)
    flags = ("--model.metric_workers=1", "--trainer.num_sanity_val_steps=1", "--trainer.accumulate_grad_batches=20")
    # more batches are needed to the end of the step than the data processes had made when the signal came
    stopped = fit(config, tmp_path / "run", *flags, harm=f"{name}-all after batch 3")
    assert stopped.returncode == (INTERRUPTED if name == "sigint" else STOPPED), stopped.stderr[-3000:]
    assert torch.load(tmp_path / "run" / "checkpoints" / LAST, weights_only=True)["global_step"] == 1


def test_a_run_that_logs_to_wandb_stops_well_though_the_signal_ended_wandbs_own_process(config, tmp_path):
    stopped = fit(config, tmp_path / "run", "--wandb=offline", harm="sigterm-all after step 3")
    assert stopped.returncode == STOPPED, stopped.stderr[-3000:]
    assert torch.load(tmp_path / "run" / "checkpoints" / LAST, weights_only=True)["global_step"] == 3
