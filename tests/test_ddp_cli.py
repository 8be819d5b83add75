"""The command line over two processes: torchrun or Lightning's own launcher, the same run, every file once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdse.run.log import training_log
from tests.ddp_launch import REPOSITORY, environment, torchrun
from tests.tiny_run import write_config

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def run(*command: object) -> str:
    """A command by itself: Lightning starts the second process, by this command line."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ddp")


@pytest.fixture(scope="module")
def config(folder) -> Path:
    """A two-step run whose objective compares the items of both processes; seven items to test."""
    return write_config(folder, data={"class_path": "tests.ddp_evaluation_run.SharedData", "init_args": {"items": 7}},
                        trainer={"max_steps": 4, "accelerator": "cpu", "enable_progress_bar": False,
                                 "enable_model_summary": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0,
                                 "callbacks": [{"class_path": "tests.ddp_watch.Watch",
                                                "init_args": {"folder": str(folder)}}]})  # fmt: skip


@pytest.fixture(scope="module")
def by_torchrun(folder, config) -> str:
    return torchrun(2, "-m", "kdse.cli", "fit", "--config", config, f"--run_dir={folder}/torchrun", *TWO)


@pytest.fixture(scope="module")
def by_lightning(folder, config) -> str:
    return run("-m", "kdse.cli", "fit", "--config", config, f"--run_dir={folder}/lightning", *TWO)


@pytest.fixture(scope="module")
def script(folder) -> Path:
    """What an installed `kdse` command is."""
    path = folder / "kdse"
    path.write_text("import sys\nfrom kdse.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    return path


def state(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def files(run_dir: Path) -> list[str]:
    found = (str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file())
    return sorted(re.sub(r"events\.out.*", "events", name) for name in found)


def test_torchrun_and_lightnings_launcher_train_the_same_two_step_run(folder, by_torchrun, by_lightning):
    one, other = state(folder / "torchrun"), state(folder / "lightning")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    log = training_log(folder / "torchrun").set_index("step")
    assert log["terms/gram/raw"].notna().tolist()[:2] == [True, True]
    assert log["terms/supervised/raw"].notna().tolist()[2:4] == [True, True]  # the switch came


def test_both_processes_start_from_one_student_and_one_seed(folder, by_torchrun, by_lightning):
    for name in ("torchrun", "lightning"):
        ranks = [json.loads((folder / f"{name}.fit.{rank}.json").read_text()) for rank in (0, 1)]
        assert ranks[0] == ranks[1] and ranks[0]["world"] == 2 and ranks[0]["seed"] == 5


def test_messages_and_files_of_a_run_come_from_rank_zero_alone(folder, by_torchrun, by_lightning):
    for said, name in ((by_torchrun, "torchrun"), (by_lightning, "lightning")):
        assert said.count("schedule: phase 1 starts at optimizer step 2") == 1
        assert said.count("compares the items of the batches of 2 processes together") == 1
        written = files(folder / name)
        assert [f for f in written if f.startswith("csv")] == ["csv/version_0/metrics.csv"]
        assert [f for f in written if "events" in f] == ["tensorboard/events"]
        assert len(training_log(folder / name)["step"].drop_duplicates()) == 4


def test_kdse_test_over_two_processes_prints_the_table_of_one(folder, config, script, by_torchrun):
    checkpoint = folder / "torchrun" / "checkpoints" / "last.ckpt"
    command = ["test", "--config", config, "--ckpt_path", checkpoint]
    one = run(script, *command, f"--run_dir={folder}/one")
    two = run(script, *command, f"--run_dir={folder}/two", *TWO)
    assert json.loads((folder / "two.test.1.json").read_text())["world"] == 2
    printed = [re.findall(r"(test/\S+)\s+\S?\s*(-?[\d.e-]+)", said) for said in (one, two)]
    assert printed[0] == printed[1] and len(printed[0]) > 10
    assert dict(printed[0]).keys() >= {"test/loss", "test/si_sdr", "test/teacher_si_sdr_improvement"}
