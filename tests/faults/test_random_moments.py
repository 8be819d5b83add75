"""Fits that are killed or stopped at moments drawn at random: every one ends as if nobody had."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from kdse.models.checkpoint import LAST, read_checkpoint
from tests.faults.runs import REPOSITORY, assert_same_end, fit, make_config

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(1800)]
MOMENTS, SEED = 20, 15
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


@pytest.fixture(scope="module")
def slowly(tmp_path_factory) -> Path:
    """The config of a run that trains for several seconds, so that moments fall into it and not into its imports."""
    path = make_config(tmp_path_factory.mktemp("slowly"))
    content = yaml.safe_load(path.read_text())
    content["trainer"]["callbacks"].append({"class_path": "tests.faults.harm.Slow", "init_args": {"seconds": 0.4}})
    path.write_text(yaml.safe_dump(content))
    return path


def disturbed(config: Path, run: Path, number: signal.Signals, after_seconds: float) -> int:
    """The exit code of a fit that got a signal so long after its start."""
    command = [sys.executable, "-m", "kdse.cli", "fit", "--config", str(config), f"--run_dir={run}", "--resume=true"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    log = run.with_suffix(".log")
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=file, stderr=file)
        try:
            return process.wait(after_seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            return process.wait(60)


def test_a_fit_killed_at_any_of_twenty_moments_ends_bit_for_bit_like_one_that_was_not(slowly, tmp_path, capsys):
    undisturbed = tmp_path / "undisturbed"
    begun = time.monotonic()
    assert fit(slowly, undisturbed).returncode == 0
    whole = time.monotonic() - begun
    draw = random.Random(SEED)
    table = []
    for count in range(MOMENTS):
        run, number = tmp_path / f"run{count}", SIGNALS[count % len(SIGNALS)]
        # (half of all moments after the imports, which are the longer half)
        moment = draw.uniform(0.5 if count % 2 else 0.0, 1.0) * whole
        code = disturbed(slowly, run, number, moment)
        last = run / "checkpoints" / LAST
        kept = read_checkpoint(last)["global_step"] if last.is_file() else None
        again = fit(slowly, run)
        assert again.returncode == 0, (count, number, moment, again.stderr[-2000:])
        assert_same_end(run, undisturbed)
        assert not list((run / "checkpoints").glob(".*"))
        table.append(f"{count:>3}  {number.name:<8}{moment:>6.2f} s  exit code {code:>4}  last.ckpt {kept}  same end")
    with capsys.disabled():
        print("\n".join(["", f"of {whole:.2f} s in all:", *table]))
