"""`kdse submit --local` keeps what it started in hand: signals, restarts, time limit, GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdse.cluster.here import MAX_RESTARTS, run_here
from kdse.cluster.request import Request
from tests.cluster.slurm.jobs import REPOSITORY

pytestmark = pytest.mark.integration

#: In place of kdse: writes its id, and ends with 75 on the first signal.
LISTENS = """
import os, pathlib, signal, sys
def stop(number, frame):
    pathlib.Path(f"saved-{signal.Signals(number).name}").touch()
    sys.exit(75)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, stop)
pathlib.Path(f"ready-{os.getpid()}").touch()
while True:
    signal.pause()
"""
MAIN = """
import sys
from pathlib import Path
from kdse.cluster.here import run_here
from kdse.cluster.request import Request
sys.exit(run_here(Request(log_dir=Path(), workers={workers}), [], (sys.executable, "-c", {program!r})))
"""


def here(folder: Path, program: str, *, arguments: tuple[str, ...] = (), **asked) -> int:
    """In this process, whose working directory is ``folder``."""
    return run_here(Request(log_dir=folder, **asked), arguments, (sys.executable, "-c", program))


def log(folder: Path) -> str:
    (path,) = folder.glob("here_*_log.out")
    return path.read_text()


def two_that_listen(folder: Path) -> subprocess.Popen:
    """A process that has started them in ``folder``, when both listen."""
    code = MAIN.format(workers=2, program=LISTENS)
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=env, stdout=subprocess.PIPE)
    end = time.monotonic() + 200
    while len(list(folder.glob("ready-*"))) < 2:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_all_that_was_started(tmp_path, number):
    process = two_that_listen(tmp_path)
    ready = list(tmp_path.glob("ready-*"))
    process.send_signal(number)
    process.communicate(timeout=200)
    assert process.returncode == 75
    for path in ready:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name.removeprefix("ready-")), 0)
    got = signal.SIGTERM if number == signal.SIGHUP else number
    assert (tmp_path / f"saved-{got.name}").exists()
    assert len(list(tmp_path.glob("ready-*"))) == 2  # none was started again


def test_what_was_started_is_stopped_when_its_starter_is_killed(tmp_path):
    process = two_that_listen(tmp_path)
    process.kill()
    process.communicate(timeout=200)
    end = time.monotonic() + 200
    while not (tmp_path / "saved-SIGTERM").exists():
        assert time.monotonic() < end, "goes on by itself"
        time.sleep(0.05)


def test_what_is_stopped_is_started_again_and_ends_with_its_own_code(tmp_path):
    program = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); n = p.exists(); p.touch(); sys.exit(3 if n else 75)"
    assert here(tmp_path, program, arguments=(str(tmp_path / "once"),)) == 3


def test_what_is_always_stopped_is_not_started_for_ever(tmp_path):
    assert here(tmp_path, "print('started'); raise SystemExit(75)") == 75
    assert log(tmp_path).splitlines().count("started") == 1 + MAX_RESTARTS


def test_the_highest_code_of_the_workers_is_that_of_all(tmp_path):
    program = f"import os, sys; os.mkdir('{tmp_path}/first'); sys.exit(0)"  # all but one fail
    assert here(tmp_path, program, workers=3) == 1


def test_shortly_before_the_time_limit_it_is_told_to_stop_and_started_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert here(tmp_path, f"import os\nif os.path.exists('saved-SIGUSR1'): raise SystemExit(0)\n{LISTENS}",
                minutes=1, signal_delay_s=58) == 0  # fmt: skip
    assert len(list(tmp_path.glob("ready-*"))) == 1


@pytest.mark.parametrize(
    ("chosen", "asked", "seen"),
    [(None, None, "None"), ("3,4", None, "3,4"), (None, 2, "0,1"), ("3,4,5", 2, "3,4"), ("3", 0, "")],
)
def test_gpus_are_those_that_were_asked_for_and_hidden_only_then(tmp_path, monkeypatch, chosen, asked, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert here(tmp_path, "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))", gpus_per_node=asked) == 0
    assert log(tmp_path).splitlines()[-1] == seen


def test_lines_of_setup_come_before_the_command_in_one_shell(tmp_path):
    program = "import os, sys; print(os.environ['A'], sys.argv[1:])"
    assert here(tmp_path, program, arguments=("b c", "$A"), setup=("A='x y'", "export A")) == 0
    assert log(tmp_path).splitlines()[-1] == "x y ['b c', '$A']"
