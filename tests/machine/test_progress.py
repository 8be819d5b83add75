"""Where no terminal shows a bar, progress is a line every few seconds and never a carriage return."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kdse.machine import progress
from kdse.machine.progress import Lines, counting
from tests.tiny_run import write_config

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the start, to be moved by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_an_hour_of_counting_is_a_line_every_so_many_seconds(clock, capsys):
    lines = Lines("index", "files")
    for second in range(3601):
        clock[0] = float(second)
        lines(second, 3600)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "index: 0/3600 files after 0 s" and said[-1] == "index: 3600/3600 files after 3600 s"
    assert "index: 1800/3600 files after 1800 s, about 1800 s left" in said
    assert len(said) == 3600 / progress.SECONDS_BETWEEN_LINES + 1
    times = [int(re.findall(r"after (\d+) s", line)[0]) for line in said]
    assert all(b - a >= progress.SECONDS_BETWEEN_LINES for a, b in zip(times, times[1:], strict=False))


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    for stream, bar in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with counting() as counts:
            advance = counts.add("scores", "items", 2)
            counts.print("between them")
            advance(), advance()
        text = stream.getvalue()
        assert "between them" in text and "2/2" in text
        assert ("\x1b[" in text) == bar and ("scores: 2/2 items after" in text) != bar


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished `kdse fit` of 60 steps and 5 validations whose output went to pipes."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder, steps=60, switch=30)
    content = yaml.safe_load(config.read_text())
    del content["trainer"]["enable_progress_bar"]
    config.write_text(yaml.safe_dump(content))
    return folder, kdse("fit", "--config", str(config))


def kdse(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "FORCE_COLOR": "1"}
    command = [sys.executable, "-m", "kdse.cli", *arguments]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done


def test_a_fit_without_a_terminal_logs_step_total_loss_and_speed_in_a_few_lines(run):
    _, done = run
    assert b"\r" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("step ")]
    assert lines[0].startswith("step 0/60") and lines[-1].startswith("step 60/60, ") and len(lines) < 12
    speed, loss = re.findall(r"([\d.]+) steps/s, .*train/loss ([\d.e+-]+)", lines[-1])[0]
    assert float(speed) > 0 and float(loss) > 0 and "val/si_sdr" in lines[-1]


def test_a_validation_without_a_terminal_has_no_carriage_return(run):
    folder, _ = run
    config, checkpoint = folder / "run" / "config.yaml", folder / "run" / "checkpoints" / "last.ckpt"
    done = kdse("validate", "--config", str(config), "--ckpt_path", str(checkpoint))
    assert b"\r" not in done.stdout + done.stderr and b"si_sdr" in done.stdout


def test_an_evaluation_without_a_terminal_counts_its_items_in_lines(tmp_path):
    from tests.data.small_corpus import make_corpus

    corpus = make_corpus(tmp_path / "corpus", files=2)
    flags = ["--corpus", str(corpus), "--items", "1", "--seconds", "1", "--metrics", "si_sdr", "--workers", "0"]
    done = kdse("evaluate", "small=cruse-30k", *flags, "--no-cost", "--out", str(tmp_path / "scores"))
    assert b"\r" not in done.stdout + done.stderr
    said = done.stderr.decode()
    total = re.findall(r"noisy: 0/(\d+) items after 0 s", said)[0]
    assert f"noisy: {total}/{total} items" in said and f"small: {total}/{total} items" in said
