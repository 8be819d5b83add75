"""Whatever a file holds: a command does its work or says in one line what is wrong, and touches nothing else.

Random faults in audio files, configs, checkpoints, ONNX files and run folders, the same on every machine. A wrong case
is named by its kind and number: ``KDSE_FUZZ=config:17 pytest tests/fuzz -m slow -s`` runs it alone and shows it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kdse.cli import main
from tests.fuzz import mutations

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parent.parent.parent
#: Cases of each kind, and the seconds after which no more are begun: five minutes in all on one core.
CASES = {"audio": 300, "config": 250, "checkpoint": 150, "onnx": 150, "run": 40}
BUDGET_S = 55.0
#: Seconds that one command may take: each does little work on files of kilobytes, the longest a report.
LONGEST_S = 90.0
#: Exit codes beside 0 and 2: `kdse enhance` ends with 1 if some files failed, which it names, and went on with others.
ALSO = {"enhance": (1,)}


class Worker:
    """A process that runs commands one after the other; it is replaced when one takes it along."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.process: subprocess.Popen[str] | None = None

    def ask(self, words: list[str], folder: Path) -> dict[str, Any]:
        """What came of a command; ``code`` is a string if the process crashed or did not answer."""
        if self.process is None:
            command = [sys.executable, "-m", "tests.fuzz.worker"]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, text=True, **pipes)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"words": words, "folder": str(folder)}) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], LONGEST_S + 30)  # (a new one imports first)
        answer = self.process.stdout.readline() if ready else ""
        if answer:
            found: dict[str, Any] = json.loads(answer)
            return found
        self.end()
        return {"code": "crashed" if ready else "never ended", "err": "", "seconds": 0.0}

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Iterator[Worker]:
    cache = tmp_path_factory.mktemp("cache")
    kept = {"KDSE_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    found = Worker({**os.environ, **kept, "TMPDIR": str(tmp_path_factory.mktemp("tmp"))})
    yield found
    found.end()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    flags = ["--model=kdse.Enhancer", "--model.model=kdse.models.Cruse", "--model.model.channels=[4,4,4,4]",
             "--model.metrics=[si_sdr]", "--data=kdse.data.SyntheticCorpus", "--data.minutes=0.5",
             "--data.validation_items=1", "--data.steps_per_epoch=2", "--data.batch_size=1", "--trainer.max_steps=2",
             "--trainer.accelerator=cpu"]  # fmt: skip
    assert main(["fit", *flags, f"--run_dir={folder / 'run'}"]) == 0
    return folder / "run"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of all files below a folder but its ``out``."""
    files = (path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "out" and not path.is_dir())
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in files}


def fault(words: list[str], answer: dict[str, Any], before: object, after: object) -> str | None:
    """What is wrong with how a command ended; None if nothing is."""
    lines = [line for line in answer["err"].splitlines() if line.startswith(f"kdse {words[0]}: ")]
    if answer["code"] not in (0, 2, *ALSO.get(words[0], ())):
        said = answer["err"].splitlines()[::-1]
        raised = next((line for line in said if re.match(r"[\w.]*(Error|Exception)\b", line)), "")
        return f"exit code {answer['code']}: {raised[:150]}"
    if "Traceback (most recent call last)" in answer["err"]:
        return "a traceback"
    if answer["code"] == 2 and len(lines) != 1:
        return f"{len(lines)} lines of kdse"
    if answer["seconds"] > LONGEST_S:
        return f"{answer['seconds']:.0f} s"
    return None if before == after else "files outside the output folder changed"


@pytest.mark.parametrize("kind", CASES)
def test_a_spoilt_file_is_worked_on_or_named_in_one_line(kind, worker, finished, tmp_path, capsys):
    if kind == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    make: Callable[..., list[str]] = getattr(mutations, kind)
    alone = os.environ.get("KDSE_FUZZ", "").partition(":")
    numbers = [int(alone[2])] if alone[0] == kind else [] if alone[0] else range(CASES[kind])
    begun, tried, wrong = time.monotonic(), {0: 0, 1: 0, 2: 0}, []
    for number in numbers:
        if time.monotonic() - begun > BUDGET_S:
            break
        folder = tmp_path / str(number)
        (folder / "out").mkdir(parents=True)
        rng = random.Random(f"{kind} {number}")
        words = make(folder, rng, finished) if kind == "run" else make(folder, rng)
        before = snapshot(folder)
        answer = worker.ask(words, folder)
        problem = fault(words, answer, before, snapshot(folder))
        with contextlib.suppress(KeyError):
            tried[answer["code"]] += 1
        if problem:
            wrong.append(f"{kind}:{number} {' '.join(words)}: {problem}")
        if alone[0]:
            print(words, answer["code"], answer["err"])
    total = sum(tried.values()) + sum("exit code" in line for line in wrong)
    with capsys.disabled():
        print(f"\n{kind:<12} tried {total:4d}   right {total - len(wrong):4d}   wrong {len(wrong):4d}   ({tried})")
        print("\n".join(wrong))
    assert not wrong
