"""A program that a command runs in its own process group ends with it after Ctrl-C, and first has time to."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from kdse.machine import processes

DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); open({ready!r}, 'w'); time.sleep(60)"
SLOW = (
    "import os, signal, sys, time\n"
    "def end(*_): time.sleep(0.5); open({ready!r} + '.saved', 'w'); os._exit(130)\n"
    "signal.signal(signal.SIGINT, end); open({ready!r}, 'w')\n"
    "time.sleep(60)\n"
)


def test_a_program_runs_to_its_end_and_its_exit_code_comes_back():
    assert processes.call([sys.executable, "-c", "raise SystemExit(7)"]) == 7


@pytest.mark.parametrize(("program", "patience", "saves"), [(SLOW, 30.0, True), (DEAF, 0.2, False)])
def test_ctrl_c_waits_for_a_program_that_ends_and_ends_one_that_does_not(
    program, patience, saves, tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "PATIENCE_S", patience)
    ready = tmp_path / "ready"
    started: list[int] = []
    real = processes.subprocess.Popen

    def start(*arguments, **options):
        child = real(*arguments, **options)
        started.append(child.pid)
        return child

    def press() -> None:
        while not ready.exists():
            time.sleep(0.02)
        for process in (started[0], os.getpid()):
            os.kill(process, signal.SIGINT)

    monkeypatch.setattr(processes.subprocess, "Popen", start)
    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        processes.call([sys.executable, "-c", program.format(ready=str(ready))])
    assert Path(f"{ready}.saved").exists() == saves
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
