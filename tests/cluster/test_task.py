"""A task tells "stopped, start me again" from a failure, whatever signal comes when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.slurm.jobs import REPOSITORY

pytestmark = pytest.mark.integration

#: In place of kdse: as `kdse fit`, it ends with 75 on the first signal and takes no notice of a second.
LISTENS = """
import signal, sys, time, pathlib
seen = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda n, _: seen.append(n))
pathlib.Path("ready").touch()
while not seen:
    time.sleep(0.01)
time.sleep(0.5)
pathlib.Path("saved").touch()
sys.exit(75)
"""
DEAF = """
import pathlib, time
pathlib.Path("ready").touch()
time.sleep(60)
"""
TASK = """
import sys
import kdse.cluster.task as task
task.run.__defaults__ = ((sys.executable, "-c", {program!r}),)
sys.exit(task.main(["note", *sys.argv[1:]]))
"""


#: Before the rest of TASK: a signal comes just before a new process is known.
STRUCK = """
import os, signal, subprocess, sys
start = subprocess.Popen
def started(*arguments):
    process = start(*arguments)
    os.kill(os.getpid(), signal.SIGUSR1)
    return process
subprocess.Popen = started
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def start(folder: Path, program: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", TASK.format(program=program)], cwd=folder, env=ENVIRONMENT)


def end(process: subprocess.Popen, folder: Path, *signals: int) -> int:
    while not (folder / "ready").exists():
        assert process.poll() is None
        time.sleep(0.01)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.1)
    return process.wait(timeout=200)


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGUSR1,), (signal.SIGUSR1, signal.SIGTERM)])
def test_a_stopped_task_ends_without_an_error_after_it_has_saved_and_leaves_a_note(tmp_path, signals):
    assert end(start(tmp_path, LISTENS), tmp_path, *signals) == 0
    assert (tmp_path / "note").exists() and (tmp_path / "saved").exists()


def test_a_signal_while_kdse_is_being_started_is_passed_on(tmp_path):
    during = TASK.replace("import sys\n", STRUCK, 1).format(program=DEAF)
    assert subprocess.run([sys.executable, "-c", during], cwd=tmp_path, env=ENVIRONMENT, timeout=200).returncode == 0
    assert (tmp_path / "note").exists()


def test_a_signal_before_kdse_listens_is_a_stop_too(tmp_path):
    assert end(start(tmp_path, DEAF), tmp_path, signal.SIGUSR1) == 0
    assert (tmp_path / "note").exists()


@pytest.mark.parametrize("code", [0, 1, 2, 76])
def test_other_ends_keep_their_exit_code_and_leave_no_note(tmp_path, code):
    assert start(tmp_path, f"raise SystemExit({code})").wait(timeout=200) == code
    assert not (tmp_path / "note").exists()


def test_a_killed_command_is_a_failure(tmp_path):
    assert start(tmp_path, "import os; os.kill(os.getpid(), 9)").wait(timeout=200) == 137
    assert end(start(tmp_path, DEAF), tmp_path, signal.SIGTERM) == 143
    assert not (tmp_path / "note").exists()


def test_arguments_reach_kdse_as_they_are(tmp_path):
    command = [sys.executable, "-m", "kdse.cluster.task", "note", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    import kdse

    assert done.stdout.strip() == kdse.__version__ and done.returncode == 0
