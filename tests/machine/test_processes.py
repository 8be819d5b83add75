"""A program that a command runs in its own process group ends with it after Ctrl-C, and first has time to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
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


OWN = "from kdse.models import Cruse\n\n\nclass MyStudent(Cruse):\n    pass\n"


@pytest.mark.integration
def test_a_file_in_the_working_folder_replaces_no_module_and_a_class_there_can_be_trained(tmp_path):
    """Fit with a data process, a scoring process and the fork server, started as the command `kdse` is."""
    bin_folder, here = tmp_path / "bin", tmp_path / "here"
    bin_folder.mkdir()
    here.mkdir()
    (bin_folder / "kdse").write_text(
        "import sys\nfrom kdse.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    for name in ("torch", "random", "socket", "pickle", "tempfile", "numpy", "multiprocessing", "soundfile", "kdse"):
        (here / f"{name}.py").write_text(
            f"open({str(tmp_path / 'sung')!r}, 'a').write({name!r})\nraise SystemExit(9)\n"
        )
    (here / "mine.py").write_text(OWN)
    small = {"class_path": "mine.MyStudent", "init_args": {"channels": [2, 4, 4, 4]}}
    config = {
        "model": {"class_path": "kdse.Enhancer",
                  "init_args": {"model": small, "metrics": ["si_sdr"], "metric_workers": 1}},
        "data": {"class_path": "kdse.data.SyntheticCorpus",
                 "init_args": {"minutes": 1, "build_workers": 1, "cache_dir": str(tmp_path / "cache"), "num_workers": 1,
                               "batch_size": 2, "segment_seconds": 0.5, "steps_per_epoch": 2, "validation_items": 2}},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "num_sanity_val_steps": 0},
        "example_every_n_validations": 0,
        "run_dir": "run",
    }  # fmt: skip
    (here / "config.json").write_text(json.dumps(config))
    flags = ["fit", "--config", "config.json"]
    done = subprocess.run([sys.executable, str(bin_folder / "kdse"), *flags], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sung").exists() and (here / "run" / "result.json").is_file()


def test_what_is_set_for_the_children_of_a_command_is_as_before_afterwards(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    path = list(sys.path)
    with processes.safe_path(), processes.working_folder_last():
        shown = subprocess.run([sys.executable, "-c", "import sys; print(sys.path[0])"], capture_output=True, text=True)
        assert shown.stdout.strip() not in ("", str(tmp_path)) and sys.path == [*path, str(tmp_path)]
    assert "PYTHONSAFEPATH" not in os.environ and sys.path == path
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with processes.safe_path():
        pass
    assert os.environ["PYTHONSAFEPATH"] == "1"
