"""Commands killed at random moments: no file with a final name is half written, and the same command ends as ever."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile

from tests.commands.test_export import save
from tests.data.small_corpus import RATE, hiss, make_corpus, tone_and_pauses
from tests.deploy.export.tiny import built
from tests.faults.killing import Ended, Moment, moments, run
from tests.sweeps.sweeping import FAKE, trained, write_sweep

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]
KILLS, SEED = 20, 15
#: What goes on growing, line by line: a kill may cut its last line short.
JOURNALS = ("scores.jsonl", "study.journal")


class Job(NamedTuple):
    """A command to be killed.

    command: its arguments. out: what it writes, a file or folder. result: what two ends of it must agree in.
    varying: patterns of files that differ from start to start (by times, say), or are written as runs go on.
    """

    command: list[str]
    out: Path
    result: Callable[[], object]
    varying: tuple[str, ...] = ()


def evaluate(folder: Path) -> Job:
    for index in range(6):
        for name, wave in (("clean", tone_and_pauses(1.5, seed=index)), ("noisy", hiss(1.5, seed=index))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            clean = tone_and_pauses(1.5, seed=index)
            soundfile.write(folder / name / f"{index}.wav", clean + wave * (name == "noisy"), RATE, subtype="FLOAT")
    out = folder / "scores"
    command = [
        "evaluate",
        f"a={save(built('cruse'), folder / 'a.ckpt')}",
        f"b={save(built('unet'), folder / 'b.ckpt')}",
    ]
    command += ["--paired", str(folder / "noisy"), str(folder / "clean"), "--metrics", "pesq_wb", "estoi", "--no-cost"]
    command += ["--workers", "0", "--save-audio", "2", "--out", str(out)]
    return Job(command, out, lambda: contents(out, "*.csv", "*.md", "audio/**/*"), ("summary.json", "per_file.csv"))


def sweep(folder: Path) -> Job:
    path, out = write_sweep(folder, {"quality": {"values": [1, 2, 3]}}), folder / "out"
    command = ["sweep", str(path), "--out", str(out), "--program", FAKE, "--workers", "2", "--steps=4", "--pause=0.05"]

    def result() -> object:
        assert set(trained(path).values()) == {1} and len(trained(path)) == 12  # no step is lost or taken twice
        return contents(out, "sweep.csv", "sweep.json", "sweep.md", "*.png", "runs/*/result.json")

    of_the_runs = ("trained.txt", "step", "validations.jsonl", "environment.json")
    return Job(command, out, result, ("study_name", "point-*.log", *of_the_runs))


def export(folder: Path) -> Job:
    model, out = save(built("cruse"), folder / "model.ckpt"), folder / "model.pt"
    command = ["export", str(model), "--format", "torchscript", "--out", str(out), "--overwrite"]
    return Job(command, out, out.read_bytes)


def pack(folder: Path) -> Job:
    corpus, out = make_corpus(folder / "corpus", files=20), folder / "packed"
    command = ["corpus", "pack", str(corpus), str(out), "--shard-mb", "0.05", "--workers", "1"]
    return Job(command, out, lambda: contents(out, "**/*"))


def teach(folder: Path) -> Job:
    corpus, out = make_corpus(folder / "corpus", files=2), folder / "taught"
    settings = {"root": str(corpus), "segment_seconds": 1.0, "batch_size": 10, "steps_per_epoch": 10}
    (folder / "run.yaml").write_text(json.dumps({"data": {"class_path": "kdse.data.Mixtures", "init_args": settings}}))
    command = ["teach", str(save(built("cruse"), folder / "a.ckpt")), "--config", str(folder / "run.yaml")]
    command += ["--epochs", "8", "--workers", "2", "--delay-samples", "0", "--gain", "1", "--out", str(out)]
    return Job(command, out, lambda: contents(out, "*"))


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    """The bytes of every file by its path; hidden ones are not for users."""
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file() and path.name[0] != "."}
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def check_whole(job: Job, undisturbed: Path) -> None:
    """Every file that has its final name after a kill is what it is after an undisturbed run."""
    files = [job.out] if job.out.is_file() else [p for p in job.out.rglob("*") if p.is_file() and p.name[0] != "."]
    for path in files:
        other = undisturbed if path == job.out else undisturbed / path.relative_to(job.out)
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        if path.name in JOURNALS:
            for line in path.read_text().split("\n")[:-1]:
                json.loads(line)
        elif other.exists() and not any(fnmatch(path.name, pattern) for pattern in job.varying):
            assert path.read_bytes() == other.read_bytes(), path


@pytest.mark.parametrize("make", [evaluate, sweep, export, pack, teach], ids=lambda make: make.__name__)
def test_a_command_killed_at_any_moment_ends_when_repeated_as_if_undisturbed(make, tmp_path):
    run(["--version"])  # (starts the server)
    folder, kept = tmp_path / "work", tmp_path / "undisturbed"
    folder.mkdir()
    job = make(folder)
    inputs = set(folder.iterdir())
    undisturbed = run(job.command)
    assert undisturbed.code == 0, undisturbed.said
    expected = job.result()
    job.out.rename(kept)
    told = []
    for moment in moments(undisturbed, KILLS, SEED):
        for path in set(folder.iterdir()) - inputs:  # (all starts are in one place: results name paths)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        killed = run(job.command, moment)
        assert killed.code in (-9, 0), killed.said
        there = job.out.exists()
        check_whole(job, kept)
        again = run(job.command)
        # (a command that had put its only result in place before it was killed says that it is there)
        assert again.code == 0 or (there and "is not empty" in again.said and job.result() == expected), again.said
        assert job.result() == expected, moment
        told.append(row(moment, killed, again))
    print(f"\n{make.__name__}: {undisturbed.seconds:.1f} s, {undisturbed.operations} file operations", file=sys.stderr)
    print("\n".join(told), file=sys.stderr)


def row(moment: Moment, killed: Ended, again: Ended) -> str:
    at = f"{moment.seconds:.2f} s" if moment.operation is None else f"operation {moment.operation}"
    return f"  killed at {at:<14} code {killed.code:>3}   again: code {again.code}, {again.seconds:.1f} s"
