"""On a real SLURM: batch jobs train what one process trains, and a stopped one goes on to the same weights.

`make test-slurm` starts the SLURM (two nodes on this host) and runs these.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.cluster.held import HOLD
from tests.cluster.slurm.jobs import SCRIPTS, Job, environment, sbatch, tell
from tests.tiny_run import write_config

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        shutil.which("sinfo") is None or "KDSE_TEST_SLURM" not in os.environ,
        reason="no SLURM for tests here; `make test-slurm` installs and starts one",
    ),
]
#: A two-step run of four steps, three to an epoch: step 1 is the last of distillation, within an epoch, and nothing but
#: a stop writes a checkpoint after it.
STEPS, SWITCH, HELD_IN = 4, 2, 1
CPU = ("--mem=4G", "--cpus-per-task=1")
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}


def config_for(folder: Path, batch_size: int = 2) -> Path:
    folder.mkdir(parents=True)
    (folder / "hold").mkdir()
    model = {"teacher_checkpoint": str(folder / "teacher.ckpt"), "compression": 2.0, "metrics": ["si_sdr"]}
    return write_config(
        folder, STEPS, SWITCH, save_every_n_steps=None,
        data={"class_path": "tests.cluster.held.HeldData",
              "init_args": {"items": 12, "batch_size": batch_size, "validation_items": 2}},
        model={"class_path": "kdse.Distiller", "init_args": {**model, "optimizer": SGD}},
    )  # fmt: skip


def held(folder: Path) -> dict[str, str]:
    return environment(**{HOLD: f"{HELD_IN}:{folder / 'hold'}"})


def wait_until_held(job: Job, folder: Path, names: tuple[str, ...] = ("0", "1")) -> None:
    job.wait(lambda: all((folder / "hold" / f"reached-{n}").exists() for n in names), "in the step it shall wait in")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == STEPS
    return dict(checkpoint["state_dict"])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of the run under the shipped torchrun script, without SLURM."""
    folder = tmp_path_factory.mktemp("torchrun") / "run"
    command = ["bash", str(SCRIPTS / "torchrun.sh"), "--config", str(config_for(folder))]
    env = {k: v for k, v in environment(PORT="29517").items() if k not in ("SLURM_CONF", "MASTER_ADDR")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return weights(folder)


def environment_with_a_wrong_clock(folder: Path) -> Path:
    """A Python environment in which the second task lives 400 days ago."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    there = Path(sys.prefix) / "bin"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "activate").write_text(f'export PATH="{folder}/bin:{there}:$PATH"\n')
    (folder / "bin" / "kdse").write_text(
        "#!/bin/bash\n"
        f'[ "$SLURM_PROCID" = 1 ] && export LD_PRELOAD={library} FAKETIME=-400d DONT_FAKE_MONOTONIC=1\n'
        f'date +%s > "{folder}/clock-$SLURM_PROCID"\n'
        f'exec "{there}/kdse" "$@"\n'
    )
    (folder / "bin" / "kdse").chmod(0o755)
    return folder


def test_a_batch_job_of_two_tasks_trains_what_torchrun_and_one_process_train(tmp_path, undisturbed):
    folder = tmp_path / "a"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    # nor do working directory, language, time zone and a clock that is wrong count
    venv = environment_with_a_wrong_clock(tmp_path / "venv")
    odd = environment(LC_ALL="C", TZ="Asia/Kolkata", VENV=str(venv))
    options = [*CPU, f"--chdir={elsewhere}"]
    job = sbatch(folder, "single_node.sbatch", "--config", str(config_for(folder)), options=options, env=odd)
    assert job.wait_for_end() == "COMPLETED", job.log
    assert re.search(r"GLOBAL_RANK: 1, MEMBER: 2/2", job.log) and re.search(r"GLOBAL_RANK: 0, MEMBER: 1/2", job.log)
    clocks = [int((venv / f"clock-{rank}").read_text()) for rank in (0, 1)]
    assert clocks[0] - clocks[1] > 399 * 24 * 3600
    assert same(weights(folder), undisturbed)

    one = tmp_path / "one"
    command = [sys.executable, "-m", "kdse.cli", "fit", "--config", str(config_for(one, batch_size=4))]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=300)
    alone = weights(one)
    assert max(float((alone[k] - v).abs().max()) for k, v in undisturbed.items()) < 1e-6


def test_a_batch_job_on_two_nodes_trains_the_same(tmp_path, undisturbed):
    folder = tmp_path / "a"
    options = [*CPU, "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=1"]
    job = sbatch(folder, "multi_node.sbatch", "--config", str(config_for(folder)), options=options)
    assert job.wait_for_end() == "COMPLETED", job.log
    assert job.shown("NumNodes") == "2"
    assert same(weights(folder), undisturbed)


@pytest.mark.parametrize("how", ["signal", "urgent", "time"])
def test_a_stopped_job_is_queued_again_and_reaches_the_weights_of_an_undisturbed_run(tmp_path, undisturbed, how):
    folder = tmp_path / "a"
    # SLURM looks at time limits every 30 s and may signal 30 s early: 40 to 70 s after the start
    limit = ["--time=2", "--signal=USR1@50"] if how == "time" else []
    urgent = ["--exclusive"] if how == "urgent" else []
    options = [*CPU, *limit, "--nodelist=node1", *urgent]
    job = sbatch(folder, "preemptible.sbatch", "--config", str(config_for(folder)), options=options, env=held(folder))
    wait_until_held(job, folder)
    if how == "signal":
        tell("scancel", "--signal=USR1", job.number)
    elif how == "urgent":
        wrap = ["--wrap", "sleep 2", "--output=/dev/null"]
        tell("sbatch", "--partition=urgent", "--nodelist=node1", "--exclusive", *wrap)
    job.wait(lambda: job.shown("Restarts") == "1", "queued again", seconds=180)
    assert job.wait_for_end() == "COMPLETED", job.log
    last = folder / "run" / "checkpoints" / "last.ckpt"
    assert f"stopped by a signal after optimizer step {HELD_IN + 1}" in job.log
    assert job.log.count("resume: no checkpoint yet") == 1 and job.log.count(f"resume: {last}") == 1
    assert job.log.count("is queued again") == (1 if how in ("signal", "time") else 0)  # else SLURM did it
    assert same(weights(folder), undisturbed)


def test_a_cancelled_job_does_not_come_back(tmp_path):
    folder = tmp_path / "a"
    job = sbatch(folder, "preemptible.sbatch", "--config", str(config_for(folder)), options=CPU, env=held(folder))
    wait_until_held(job, folder)
    tell("scancel", job.number)
    assert job.wait_for_end() == "CANCELLED"
    time.sleep(3)  # what a script that asked for a requeue would have needed
    assert job.state == "CANCELLED" and job.shown("Restarts") == "0"


def test_a_job_whose_process_was_killed_fails_at_once_and_goes_on_when_submitted_again(tmp_path, undisturbed):
    folder = tmp_path / "a"
    config = config_for(folder)
    flags = ["--config", str(config), "--save_every_n_steps=1"]
    job = sbatch(folder, "preemptible.sbatch", *flags, options=CPU, env=held(folder))
    wait_until_held(job, folder)
    os.kill(int((folder / "hold" / "reached-1").read_text()), signal.SIGKILL)
    assert job.wait_for_end() == "FAILED", job.log
    assert job.shown("Restarts") == "0" and job.shown("ExitCode") == "137:0"
    again = sbatch(folder, "preemptible.sbatch", *flags, options=CPU)
    assert again.wait_for_end() == "COMPLETED", again.log
    assert "resume: " + str(folder / "run" / "checkpoints" / "last.ckpt") in again.log
    assert same(weights(folder), undisturbed)


def test_kdse_submit_runs_a_job_that_goes_on_after_a_signal(tmp_path, undisturbed):
    folder = tmp_path / "a"
    config = config_for(folder)
    command = [sys.executable, "-m", "kdse.cli", "submit", "--tasks-per-node", "2", "--time", "10", "--name", "tiny",
               "--log-dir", "logs", "--", "fit", "--config", str(config)]  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=held(folder), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = re.search(r"submitted job (\d+)", done.stdout)
    assert found, done.stdout
    job = Job(found[1], folder / "logs" / f"{found[1]}_0_log.out")
    assert str(job.log_path.relative_to(folder)) in done.stdout
    wait_until_held(job, folder)
    tell("scancel", "--signal=USR1", job.number)
    job.wait(lambda: job.shown("Restarts") == "1", "queued again")
    assert job.wait_for_end() == "COMPLETED", job.log
    assert job.log.count("resume: ") == 2 and "is queued again" in job.log  # one log for both starts
    assert same(weights(folder), undisturbed)


def test_a_sweep_as_an_array_trains_every_point_once_with_two_workers_at_a_time(tmp_path):
    folder = tmp_path / "a"
    command = [
        "kdse",
        "fit",
        f"--config={config_for(folder, batch_size=4)}",
        "--run_root=runs",
        "--resume=true",
        "${args}",
    ]
    sweep = {
        "method": "grid",
        "metric": {"name": "val/si_sdr", "goal": "maximize"},
        "command": command,
        "parameters": {"seed_everything": {"values": [0, 1, 2]}, "objectives.gram.weight": {"values": [1.0]}},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    env = {**held(folder), "SWEEP": "sweep.yaml", "OUT": "swept"}
    array = sbatch(folder, "sweep_array.sbatch", options=[*CPU, "--array=0-1"], env=env)
    workers = [Job(f"{array.number}_{i}", array.log_path) for i in (0, 1)]
    wait_until_held(workers[0], folder)  # both, each in a point of its own
    assert (folder / "hold" / "reached-0").read_text() != (folder / "hold" / "reached-1").read_text()
    tell("scancel", "--signal=USR1", workers[1].number)
    workers[1].wait(lambda: workers[1].shown("Restarts") == "1", "queued again")
    assert workers[0].state == "RUNNING"  # it alone
    (folder / "hold" / "release").touch()
    assert [worker.wait_for_end() for worker in workers] == ["COMPLETED", "COMPLETED"], array.log
    assert workers[0].shown("Restarts") == "0"

    points = json.loads((folder / "swept" / "sweep.json").read_text())["points"]
    assert [point["state"] for point in points] == ["finished"] * 3
    assert len(list((folder / "swept" / "runs").iterdir())) == 3
    logs = [path.read_text() for path in sorted((folder / "swept" / "logs").iterdir())]
    assert len(logs) == 3 and all(log.count("no checkpoint yet") == 1 for log in logs)
    assert sum(log.count("resume: ") - 1 for log in logs) == 1  # only the point of the worker that was stopped
    assert all(log.count(f"`max_steps={STEPS}` reached") == 1 for log in logs)
