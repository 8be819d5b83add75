"""`kdse submit`: what it would send, what it refuses, and a run of it on this machine."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdse.cli import main
from tests.cluster.held import HOLD
from tests.cluster.slurm.jobs import REPOSITORY, environment
from tests.tiny_run import write_config


def dry(capsys, *arguments: str) -> tuple[dict[str, str | None], list[str], str]:
    """Of a dry run: the flags for sbatch, the kdse command, and the whole text."""
    assert main(["submit", "--dry-run", *arguments]) == 0
    text = capsys.readouterr().out
    flags = {}
    for line in re.findall(r"^#SBATCH --(.*)$", text, re.MULTILINE):
        name, equals, value = line.partition("=")
        flags[name] = shlex.split(value)[0] if equals else None
    command = re.search(r"^# kdse (.*)$", text, re.MULTILINE)
    assert command
    return flags, shlex.split(command[1]), text


def refused(capsys, *arguments: str) -> str:
    assert main(["submit", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_a_fit_gets_a_task_for_each_gpu_and_the_devices_that_go_with_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--nodes", "2", "--gpus-per-node", "4", "--cpus-per-task", "8", "--mem-gb", "31.5", "--time", "240"]
    flags, command, text = dry(capsys, *asked, "--partition", "p", "--name", "n", "--", "fit", "--config", "a b.yaml")
    expected = {
        "nodes": "2", "gpus-per-node": "4", "ntasks-per-node": "4", "cpus-per-task": "8", "mem": "32256MB",
        "time": "240", "partition": "p", "job-name": "n", "signal": "USR1@120", "requeue": None, "open-mode": "append",
    }  # fmt: skip
    assert expected.items() <= flags.items()
    given = ["fit", "--config", "a b.yaml", "--trainer.devices=4", "--trainer.num_nodes=2", "--resume=true"]
    assert command == given
    srun = next(line for line in text.splitlines() if line.startswith("srun "))
    assert "--kill-on-bad-exit=1" in srun and "--open-mode=append" in srun and "--cpus-per-task=8" in srun
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_what_the_user_gave_is_not_given_twice(capsys):
    given = ["fit", "--trainer.devices", "2", "--trainer.num_nodes=1", "--resume=true"]
    assert dry(capsys, "--tasks-per-node", "2", "--", *given)[1] == given


def test_a_sweep_is_an_array_of_workers_that_do_not_wait_for_each_other(capsys):
    flags, command, _ = dry(capsys, "--workers", "8", "--array-parallelism", "3", "--", "sweep", "f.yaml", "--out", "o")
    assert flags["array"] == "0-7%3" and flags["ntasks-per-node"] == "1"
    assert command == ["sweep", "f.yaml", "--out", "o", "--workers=1", "--no-wait"]
    assert dry(capsys, "--workers", "8", "--", "sweep", "f.yaml", "--out", "o")[0]["array"] == "0-7%8"
    assert "array" not in dry(capsys, "--", "sweep", "f.yaml", "--out", "o")[0]


def test_other_flags_of_sbatch_setup_lines_and_no_requeue(capsys):
    flags, _, text = dry(
        capsys, "--set", "account=mine", "--set", "exclusive", "--setup", "module load x", "--setup", "export A='b c'",
        "--no-requeue", "--signal-delay", "30", "--", "fit", "--ckpt_path", "x.ckpt",
    )  # fmt: skip
    assert flags["account"] == "mine" and flags["exclusive"] is None and flags["signal"] == "USR1@30"
    assert "no-requeue" in flags and "requeue" not in flags and "MAX_RESTARTS=0\n" in text
    lines = text.splitlines()
    assert lines.index("module load x") < lines.index("export A='b c'") < lines.index("# command")
    assert "--resume" not in text


def test_a_type_of_gpu_may_stand_beside_their_number_and_other_resources_alone(capsys):
    flags, command, _ = dry(capsys, "--gpus-per-node", "4", "--set", "gres=gpu:a100:4", "--", "fit")
    assert flags["gres"] == "gpu:a100:4" and flags["ntasks-per-node"] == "4" and "--trainer.devices=4" in command
    assert dry(capsys, "--set", "gres=tmp:100G", "--", "fit")[0]["gres"] == "tmp:100G"


def test_the_time_limit_on_a_cluster_is_an_hour_if_none_is_given(capsys):
    assert dry(capsys, "--", "fit")[0]["time"] == "60"


@pytest.mark.parametrize(
    ("arguments", "names", "fix"),
    [
        ("", "--", "kdse submit"),
        ("fit --config a.yaml", "unrecognized", "--help"),
        ("-- export", "export", "fit, sweep"),
        ("--nodes two -- fit", "--nodes", "whole number"),
        ("--nodes 0 -- fit", "--nodes", "from 1 up"),
        ("--gpus-per-node 4 --tasks-per-node 2 -- fit", "--tasks-per-node 2", "leave it out"),
        ("--gpus-per-node 4 -- fit --trainer.devices=2", "--trainer.devices=2", "leave it out"),
        ("--nodes 2 -- fit --trainer.num_nodes 1", "--trainer.num_nodes=1", "leave it out"),
        ("-- fit --resume=false", "--resume=false", "--no-requeue"),
        ("-- fit --ckpt_path x", "--ckpt_path", "--no-requeue"),
        ("--workers 2 -- fit", "--workers", "sweep"),
        ("--array-parallelism 2 -- sweep f --out o", "--array-parallelism", "--workers"),
        ("--workers 2 -- sweep f", "sweep", "--out"),
        ("-- sweep f --out o --workers 4", "--workers 4", "before the --"),
        ("--nodes 2 -- sweep f --out o", "--nodes 2", "--workers"),
        ("--tasks-per-node 2 -- evaluate a.ckpt", "2 tasks", "one task"),
        ("--time 2 -- fit", "--signal-delay 120", "--time 2"),
        ("--set nodes=3 -- fit", "--set nodes", "--nodes"),
        ("--set ntasks_per_node=3 -- fit", "--set ntasks-per-node", "--tasks-per-node"),
        ("--set gpus-per-task=1 -- fit", "--set gpus-per-task", "--gpus-per-node"),
        ("--set gpus=4 -- fit", "--set gpus=4", "--gpus-per-node"),
        ("--set gres=gpu:a100:4 -- fit", "--set gres=gpu:a100:4", "--gpus-per-node"),
        ("--set tres_per_node=gres/gpu:4 -- fit", "--set tres-per-node=gres/gpu:4", "--gpus-per-node"),
        ("--set =3 -- fit", "--set =3", "NAME=VALUE"),
        ("--local --nodes 2 -- fit", "--local --nodes 2", "one node"),
        ("--local --partition p -- fit", "--local --partition", "leave it out"),
        ("--local --set a=b -- fit", "--local --set", "leave it out"),
        ("--local --no-requeue -- fit", "--local --no-requeue", "leave it out"),
    ],
)
def test_a_contradiction_is_refused_in_one_line_that_names_the_flag_and_the_fix(capsys, arguments, names, fix):
    message = refused(capsys, *shlex.split(arguments))
    assert names in message and fix in message


def test_without_slurm_it_says_so(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused(capsys, "--", "fit")
    assert "no SLURM here" in message and "--local" in message


def test_without_submitit_it_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "kdse[cluster]" in refused(capsys, "--dry-run", "--", "fit")


def test_what_sbatch_says_reaches_the_user(capsys, monkeypatch, tmp_path):
    for name, does in (("sbatch", "echo 'Invalid account' >&2; exit 1"), ("srun", "true")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "Invalid account" in refused(capsys, "--log-dir", str(tmp_path / "logs"), "--", "fit")


def test_a_folder_that_cannot_be_made_is_named(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert "--log-dir" in refused(capsys, "--local", "--log-dir", str(tmp_path / "file" / "x"), "--", "fit")


@pytest.mark.integration
def test_on_this_machine_a_stopped_run_is_started_again_and_reaches_the_same_weights(tmp_path):
    def weights(folder: Path) -> dict:
        return torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)

    data = {"class_path": "tests.cluster.held.HeldData", "init_args": {"items": 12, "validation_items": 2}}
    configs = []
    for name in ("undisturbed", "stopped"):
        (tmp_path / name / "hold").mkdir(parents=True)
        configs.append(write_config(tmp_path / name, data=data, save_every_n_steps=None))
    kdse = [sys.executable, "-m", "kdse.cli"]
    subprocess.run([*kdse, "fit", "--config", str(configs[0])], env=environment(), check=True, capture_output=True)

    folder = tmp_path / "stopped"
    submit = [*kdse, "submit", "--local", "--time", "5", "--log-dir", str(folder / "logs"), "--"]
    process = subprocess.Popen(
        [*submit, "fit", "--config", str(configs[1])],
        cwd=REPOSITORY, env=environment(**{HOLD: f"1:{folder / 'hold'}"}), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    reached = folder / "hold" / "reached-0"
    end = time.monotonic() + 200
    while not reached.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    os.kill(int(reached.read_text()), signal.SIGUSR1)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    log = Path(out.strip().removeprefix("log: ")).read_text()
    assert log.count("resume: no checkpoint yet") == 1 and log.count("last.ckpt holds; go on") == 1
    a, b = weights(tmp_path / "undisturbed"), weights(folder)
    assert a["global_step"] == b["global_step"] == 4
    assert all(torch.equal(a["state_dict"][k], b["state_dict"][k]) for k in a["state_dict"])


@pytest.mark.integration
def test_on_this_machine_the_exit_code_is_that_of_the_command(tmp_path):
    command = [sys.executable, "-m", "kdse.cli", "submit", "--local", "--time", "5", "--log-dir", "logs", "--", "fit"]
    done = subprocess.run([*command, "--bogus=1"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "--bogus" in Path(done.stdout.strip().removeprefix("log: ")).read_text()


def test_the_readme_of_the_scripts_names_commands_that_parse(capsys):
    text = (REPOSITORY / "experiments" / "cluster" / "README.md").read_text()
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(lines) == 2
    for line in lines:
        words = shlex.split(line)
        assert words[:2] == ["kdse", "submit"]
        dry(capsys, *words[2:])
    for name in re.findall(r"\]\(([\w.]+)\)", text):
        assert (REPOSITORY / "experiments" / "cluster" / name).is_file()
