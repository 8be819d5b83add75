"""`kdse sweep` as a user types it: mistakes in one line, dry runs, reports, and a real sweep of tiny students."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from kdse.commands.sweep import main
from kdse.sweeps.store import Store
from tests.sweeps.sweeping import FAKE, points, run, trained, write_sweep
from tests.tiny_run import write_config

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
GRID = {"quality": {"values": [1, 2]}}


def test_a_dry_run_prints_the_commands_and_touches_nothing(tmp_path, capsys):
    path = write_sweep(tmp_path, {"data.snr_db": {"values": [[-5, 0], [0, 5]]}, "model.compression": {"value": 4}})
    assert main([str(path), "--out", str(tmp_path / "out"), "--dry-run", "--trainer.max_steps=9"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    flags = [f"--run_root={tmp_path / 'out' / 'runs'}", "--resume=true", "--wandb=off", "--trainer.max_steps=9"]
    assert lines == [
        ["kdse", "fit", f"--data.snr_db={snr}", "--model.compression=4", *flags] for snr in ("[-5, 0]", "[0, 5]")
    ]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_random_search_shows_the_points_it_will_train(tmp_path, capsys):
    path = write_sweep(tmp_path, {"quality": {"min": 0.0, "max": 1.0}}, method="random", run_cap=3)
    assert main([str(path), "--dry-run", "--seed=5"]) == 0
    shown = [line.split("--quality=")[1].split()[0] for line in capsys.readouterr().out.splitlines()]
    assert run(path, "--seed=5", "--pause=0", "--steps=1") == 0
    assert shown == [str(point["values"]["quality"]) for point in points(path)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run_root=x"], "--run_root: kdse sweep sets it"),
        (["--config=x"], "--config: would come after"),
        (["--worker=2"], None),  # an unknown flag goes to kdse fit; only ours are ours
        (["--workers=0"], "--workers, --max-points: must be at least 1"),
        (["--report-only"], "--report-only: .*holds no sweep"),
        (["oops"], "oops: unknown; a flag for kdse fit is written as --name=VALUE"),
        (["--program", "/nowhere/kdse"], "--program: /nowhere/kdse cannot be started"),
        (["--storage", "sqlite:////nowhere/at/all.db"], "--storage sqlite:////nowhere/at/all.db: cannot be used"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, flags, message):
    path = write_sweep(tmp_path, GRID)
    arguments = [str(path), "--out", str(tmp_path / "out"), "--program", FAKE, *flags]
    if message is None:
        assert main([*arguments, "--pause=0"]) == 0
    else:
        with pytest.raises(ValueError, match=message):
            main(arguments)


def test_a_search_without_an_end_is_refused(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"min": 0.0, "max": 1.0}}, method="random")
    with pytest.raises(ValueError, match="method random has no end; set run_cap in it, or give --max-points"):
        run(path)
    assert run(path, "--max-points=2", "--pause=0") == 0 and len(points(path)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("file", r"whose file: parameters: quality: values is \[1, 2\] and not \[1, 5\]"),
        ("flag", r'whose flags is \["--pause=0"\] and not \["--pause=0", "--steps=2"\]'),
        ("config", "whose configs: .*base.yaml is"),
    ],
)
def test_a_folder_goes_on_with_nothing_but_what_it_was_begun_with(tmp_path, change, message):
    base = tmp_path / "base.yaml"
    base.write_text("a: 1\n")
    command = ["kdse", "fit", f"--config={base}", "${args}"]
    path = write_sweep(tmp_path, GRID, command=command)
    assert run(path, "--pause=0") == 0
    if change == "file":
        write_sweep(tmp_path, {"quality": {"values": [1, 5]}}, command=command)
    elif change == "config":
        base.write_text("a: 2\n")
    with pytest.raises(ValueError, match=message):
        run(path, "--pause=0", *(["--steps=2"] if change == "flag" else []))


def test_a_sweep_does_not_go_on_with_another_teacher_or_corpus(tmp_path, monkeypatch):
    """Neither is a setting whose text would change."""
    teacher = tmp_path / "teacher.ckpt"
    base = tmp_path / "base.yaml"
    base.write_text(f"model:\n  class_path: A\n  init_args:\n    teacher_checkpoint: {teacher}\n")
    path = write_sweep(tmp_path, GRID, command=["kdse", "fit", f"--config={base}", "${args}"])
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    assert run(path, "--pause=0", "--max-points=1") == 0  # (there is no teacher yet)
    teacher.write_bytes(b"one")
    monkeypatch.setenv("KDSE_CORPUS", str(tmp_path / "corpus"))
    assert run(path, "--pause=0") == run(path, "--pause=0") == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDSE_CORPUS", "corpus")  # (the same, seen from here)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert run(path, "--pause=0") == 0
    monkeypatch.setenv("KDSE_CORPUS", "other")
    with pytest.raises(ValueError, match=r"whose corpus \(KDSE_CORPUS\) is .*/corpus. and not .*/other"):
        run(path, "--pause=0")
    monkeypatch.setenv("KDSE_CORPUS", "corpus")
    teacher.write_bytes(b"two")
    with pytest.raises(ValueError, match=f"whose teacher {teacher} is"):
        run(path, "--pause=0")
    assert run(path, "--report-only") == 0


@pytest.mark.parametrize("how", ["flag", "parameter"])
def test_a_teacher_counts_wherever_it_is_named(tmp_path, how):
    teacher = tmp_path / "teacher.ckpt"
    teacher.write_bytes(b"one")
    flags = [f"--model.init_args.teacher_checkpoint={teacher}"] if how == "flag" else []
    swept = {} if how == "flag" else {"model.teacher_checkpoint": {"values": [str(teacher), "another"]}}
    path = write_sweep(tmp_path, {**GRID, **swept})
    assert run(path, "--pause=0", *flags) == 0
    teacher.write_bytes(b"two")
    with pytest.raises(ValueError, match=f"whose teacher {teacher} is"):
        run(path, "--pause=0", *flags)


def test_flags_that_change_no_result_may_change(tmp_path):
    path = write_sweep(tmp_path, GRID)
    assert run(path, "--pause=0", "--data.num_workers=2", "--wandb=offline") == 0
    more = ["--data.init_args.num_workers=4", "--trainer.accelerator=cpu", "--model.metric_workers=2"]
    assert run(path, "--pause=0", *more, "--data.manifest=m") == 0
    for other in ("--trainer.devices=2", "--seed_everything=3", "--data.batch_size=3"):
        with pytest.raises(ValueError, match="whose flags is"):
            run(path, "--pause=0", other)


def test_a_report_needs_no_configs(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("a: 1\n")
    path = write_sweep(tmp_path, GRID, command=["kdse", "fit", f"--config={base}", "${args}"])
    assert run(path, "--pause=0") == 0
    base.unlink()
    assert run(path, "--report-only") == 0
    with pytest.raises(ValueError, match="base.yaml: named by the sweep's command, cannot be read"):
        run(path, "--pause=0")


def test_names_and_comments_may_change(tmp_path):
    path = write_sweep(tmp_path, GRID)
    assert run(path, "--pause=0") == 0
    write_sweep(tmp_path, GRID, name="another name", project="mine")
    path.write_text("# a comment\n" + path.read_text())
    assert run(path, "--pause=0") == 0


def test_the_report_is_made_again_from_what_is_there(tmp_path, capsys):
    space = {"model.compression": {"values": [4, 16]}, "data.snr_db": {"values": [[-5, 0], [0, 5]]}}
    path = write_sweep(tmp_path, space)
    assert run(path, "--pause=0", "--max-points=3") == 0
    out = tmp_path / "out"
    made = ("sweep.md", "sweep.csv", "sweep.json", "heat_map.png")
    before = {name: (out / name).read_bytes() for name in made}
    for name in made:
        (out / name).unlink()
    assert run(path, "--report-only") == 0  # (without the flags that only training needs)
    assert {name: (out / name).read_bytes() for name in made} == before
    assert "3 finished, 1 waiting" in capsys.readouterr().out
    write_sweep(tmp_path, {**space, "model.compression": {"values": [4, 8]}})
    with pytest.raises(ValueError, match="holds another sweep, whose file: parameters: model.compression"):
        run(path, "--report-only")


def test_a_full_disk_is_told_in_one_line_and_nothing_is_lost(tmp_path, monkeypatch):
    path = write_sweep(tmp_path, GRID)
    finish, ended = Store.finish, []

    def full_the_second_time(self, claim, value):
        if ended:
            raise OSError(28, "No space left on device")
        ended.append(claim.number)
        finish(self, claim, value)

    monkeypatch.setattr(Store, "finish", full_the_second_time)
    with pytest.raises(ValueError, match="out: No space left on device; the same command goes on"):
        run(path, "--pause=0")
    monkeypatch.undo()
    assert run(path, "--pause=0") == 0
    assert [p["state"] for p in points(path)] == ["finished"] * 2 and set(trained(path).values()) == {1}


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'kdse\[sweep\]'"):
        run(write_sweep(tmp_path, GRID))


def test_real_runs_are_swept_stopped_and_resumed_to_one_result(tmp_path, monkeypatch):
    """With and without two-step distillation, of a tiny student on toy data, through `kdse fit` itself."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = write_config(tmp_path, steps=12)
    content = yaml.safe_load(config.read_text())
    content["schedule"] = {"class_path": "kdse.schedule.TwoStep", "init_args": {"distil_fraction": 0.5}}
    config.write_text(yaml.safe_dump(content))
    command = ["kdse", "fit", f"--config={config}", "--wandb=online", "${args}"]
    content["model"]["init_args"]["compression"] = 2.0
    path = write_sweep(tmp_path, {"schedule.distil_fraction": {"values": [0, 0.5]}}, command=command)
    words = [sys.executable, "-m", "kdse.cli", "sweep", str(path), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 120
    while not list(tmp_path.glob("out/runs/*/checkpoints/last.ckpt")) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 75, printed
    again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert again.returncode == 0, again.stdout + again.stderr
    found = points(path)
    assert [p["state"] for p in found] == ["finished"] * 2 and [p["step"] for p in found] == [12] * 2
    assert len({p["run"] for p in found}) == 2
    for point in found:
        result = json.loads((Path(point["run"]) / "result.json").read_text())
        assert result["metrics"] == point["metrics"] and result["identity"] == Path(point["run"]).name
        assert point["parameters"] < 8589 / 1.9 and point["macs_per_second"] > 0
