"""The shipped batch scripts, with SLURM's commands replaced by ones that note how they were called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kdse.cli import main
from kdse.cluster import requeue
from tests.cluster.slurm.jobs import REPOSITORY, SCRIPTS

pytestmark = pytest.mark.integration

SBATCH = sorted(SCRIPTS.glob("*.sbatch"))
ALL = [*SBATCH, SCRIPTS / "torchrun.sh"]
GO_ON = [SCRIPTS / "preemptible.sbatch", SCRIPTS / "sweep_array.sbatch"]


class Pretended:
    """Runs scripts in a folder where ``srun``, ``squeue``, ``scontrol`` and ``torchrun`` are notes of their arguments.

    ``srun_does`` is what the first does beyond that, as lines of shell; ``state`` what ``squeue`` says of the job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "venv" / "bin").mkdir(parents=True)
        (folder / "venv" / "bin" / "activate").write_text("true\n")

    def command(self, name: str, does: str) -> None:
        path = self.folder / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {self.folder}/{name}.called\n{does}\n')
        path.chmod(0o755)

    def called(self, name: str) -> list[str] | None:
        path = self.folder / f"{name}.called"
        return path.read_text().splitlines() if path.exists() else None

    def run(
        self, script: Path, *flags: str, srun_does: str = "", state: str = "RUNNING", **variables: str
    ) -> subprocess.CompletedProcess:
        self.command("srun", srun_does)
        self.command("torchrun", "")
        self.command("squeue", f"echo {state}")
        self.command("scontrol", "")
        given = {
            "PATH": f"{self.folder}:{os.environ['PATH']}", "VENV": str(self.folder / "venv"), "SLURM_JOB_ID": "12",
            "SLURM_NTASKS_PER_NODE": "3", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "5", **variables,
        }  # fmt: skip
        return subprocess.run(["bash", str(script), *flags], cwd=self.folder, env=given, capture_output=True, text=True)


@pytest.fixture
def pretended(tmp_path) -> Pretended:
    return Pretended(tmp_path)


@pytest.mark.parametrize("script", ALL, ids=lambda p: p.name)
def test_a_script_is_clean_shell_and_names_no_site(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    text = script.read_text()
    assert not re.search(r"^#SBATCH --(partition|account|qos|constraint|nodelist)", text, re.MULTILINE)
    assert "kdse" in text and len(text.splitlines()) < 100


@pytest.mark.parametrize("script", [s for s in ALL if s.name != "sweep_array.sbatch"], ids=lambda p: p.name)
def test_a_script_gives_kdse_fit_flags_that_exist_and_agree_with_the_tasks(
    script, pretended, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("KDSE_CORPUS", str(tmp_path))
    done = pretended.run(script, PROCESSES="3", NODES="2")
    assert done.returncode == 0, done.stderr
    words = pretended.called("torchrun" if script.suffix == ".sh" else "srun")
    assert words
    fit = words[words.index("fit") :]
    with pytest.raises(SystemExit, match="^0$"):
        main([*fit, "--print_config"])
    printed = capsys.readouterr().out
    assert "devices: '3'\n" in printed and "num_nodes: 2\n" in printed and "resume: true\n" in printed


@pytest.mark.parametrize("script", [s for s in SBATCH if s.name != "sweep_array.sbatch"], ids=lambda p: p.name)
def test_flags_after_the_scripts_name_take_the_place_of_its_own_and_keep_their_spaces(script, pretended):
    pretended.run(script, "--config", "my file.yaml")
    words = pretended.called("srun")
    assert words and words[words.index("fit") + 1 :][:3] == ["--config", "my file.yaml", "--resume=true"]
    assert not any("experiments" in word for word in words)


def test_the_sweep_script_names_a_sweep_that_exists_and_flags_that_kdse_sweep_knows(pretended, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    pretended.run(SCRIPTS / "sweep_array.sbatch", OUT=str(pretended.folder / "out"))
    words = pretended.called("srun")
    assert words and main([*words[words.index("sweep") :], "--dry-run"]) == 0
    assert "kdse fit" in capsys.readouterr().out


@pytest.mark.parametrize("script", GO_ON, ids=lambda p: p.name)
class TestTheEndOfAScript:
    # the note's name is the argument of kdse.cluster.task
    STOPPED = 'while [ "$1" != kdse.cluster.task ]; do shift; done; touch "$2"'

    def test_a_stopped_job_is_queued_again(self, script, pretended):
        done = pretended.run(script, srun_does=self.STOPPED)
        assert pretended.called("scontrol") == ["requeue", "12"] and done.returncode == 75
        assert not list(pretended.folder.glob(".stopped*"))

    def test_so_is_one_that_was_signalled_before_it_could_take_it(self, script, pretended):
        done = pretended.run(script, srun_does="exit 138")
        assert pretended.called("scontrol") == ["requeue", "12"] and done.returncode == 75

    def test_a_task_of_an_array_is_queued_again_alone(self, script, pretended):
        array = {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7"}  # 12 alone is the whole array
        pretended.run(script, srun_does=self.STOPPED, **array)
        assert pretended.called("scontrol") == ["requeue", "12_7"]

    @pytest.mark.parametrize("code", [0, 1, 2, 137, 143])
    def test_a_job_that_ended_or_failed_is_not(self, script, pretended, code):
        done = pretended.run(script, srun_does=f"exit {code}")
        assert pretended.called("scontrol") is None and done.returncode == code

    def test_a_failure_beside_a_task_that_was_stopped_is_a_failure(self, script, pretended):
        done = pretended.run(script, srun_does=f"{self.STOPPED}\nexit 1")
        assert pretended.called("scontrol") is None and done.returncode == 1

    def test_a_note_from_an_earlier_start_does_not_count(self, script, pretended):
        (pretended.folder / ".stopped-12").touch()
        assert pretended.run(script).returncode == 0
        assert pretended.called("scontrol") is None

    @pytest.mark.parametrize("state", ["COMPLETING", "PENDING", "CANCELLED", ""])
    def test_a_job_that_was_cancelled_or_queued_again_by_slurm_is_left_alone(self, script, pretended, state):
        done = pretended.run(script, srun_does=self.STOPPED, state=state)
        assert pretended.called("scontrol") is None and done.returncode == 75

    def test_a_job_does_not_come_back_for_ever(self, script, pretended):
        done = pretended.run(script, srun_does=self.STOPPED, MAX_RESTARTS="3", SLURM_RESTART_COUNT="3")
        assert pretended.called("scontrol") is None and done.returncode == 75
        assert "not queued again after 3 restarts" in done.stdout

    def test_it_is_what_kdse_submit_writes(self, script, pretended):
        code, restarts, *lines = requeue.after(100)
        assert (code, restarts) == ("code=$?", "MAX_RESTARTS=100")
        assert script.read_text().endswith("\n".join(lines) + "\n")


def test_the_installer_explains_itself_and_refuses_to_run_without_a_command():
    done = subprocess.run(
        ["bash", str(REPOSITORY / "tests/cluster/slurm/with_slurm.sh")], capture_output=True, text=True
    )
    assert done.returncode == 2 and "COMMAND" in done.stdout


def test_the_python_of_the_scripts_is_that_of_the_environment_they_activate(pretended):
    (pretended.folder / "venv" / "bin" / "activate").write_text(f"export PATH={Path(sys.executable).parent}:$PATH\n")
    done = pretended.run(SCRIPTS / "single_node.sbatch", srun_does="command -v kdse")
    assert pretended.called("srun") is not None and done.stdout.strip() == str(Path(sys.executable).parent / "kdse")
