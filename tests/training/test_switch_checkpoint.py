"""switch.ckpt is the student as the first phase left it, whatever interrupts the run, and costs the run nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kdse.training.cli
from kdse.cli import main
from kdse.distiller import Distiller
from kdse.errors import UserError
from kdse.models.checkpoint import load_model, read_checkpoint
from kdse.run.folder import result
from kdse.run.switches import switch_steps
from kdse.run.timing import step_cost
from kdse.training.checkpoint_files import LastCheckpoint
from tests.tiny_run import write_config

pytestmark = pytest.mark.integration


def checkpoint(folder: Path, name: str = "switch") -> Path:
    return folder / "run" / "checkpoints" / f"{name}.ckpt"


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def seen(monkeypatch) -> dict[int, dict[str, torch.Tensor]]:
    """The student's weights as every optimizer step found them, by step."""
    weights: dict[int, dict[str, torch.Tensor]] = {}
    step = Distiller.training_step

    def training_step(self, *arguments):
        weights.setdefault(self.global_step, {k: v.clone() for k, v in self.student.state_dict().items()})
        return step(self, *arguments)

    monkeypatch.setattr(Distiller, "training_step", training_step)
    return weights


@pytest.fixture
def stop_at(monkeypatch):
    """Ends the next run at a step: after or before its last.ckpt is written there."""

    def stop(step: int, before_last_is_saved: bool = False) -> None:
        method = LastCheckpoint.on_train_batch_end

        def on_train_batch_end(self, trainer, *rest):
            if not before_last_is_saved or trainer.global_step != step:
                method(self, trainer, *rest)
            if trainer.global_step == step:
                monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", method)
                raise UserError("killed")

        monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", on_train_batch_end)

    return stop


def test_it_holds_the_student_as_the_second_phase_found_it_and_loads_like_any_checkpoint(tmp_path, seen):
    assert main(["fit", "--config", str(write_config(tmp_path))]) == 0
    content = read_checkpoint(checkpoint(tmp_path))
    assert content["global_step"] == 2
    assert same(load_model(checkpoint(tmp_path)).state_dict(), seen[2]) and not same(seen[2], seen[3])
    assert result(tmp_path / "run")["switches"] == switch_steps(tmp_path / "run") == [2]


def test_training_is_bit_identical_with_and_without_it(tmp_path, monkeypatch):
    config = write_config(tmp_path)
    assert main(["fit", "--config", str(config)]) == 0
    whole = read_checkpoint(checkpoint(tmp_path, "last"))
    monkeypatch.setattr(kdse.training.cli.SwitchCheckpoint, "on_train_batch_end", lambda *_: None)
    assert main(["fit", "--config", str(config), "--overwrite=true"]) == 0
    plain = read_checkpoint(checkpoint(tmp_path, "last"))
    assert not checkpoint(tmp_path).exists()  # and a fresh start removed the older run's
    assert same(whole["state_dict"], plain["state_dict"]) and whole["loops"] == plain["loops"]
    assert plain["callbacks"].keys() == whole["callbacks"].keys()  # (so that either resumes from the other)


@pytest.mark.parametrize(
    ("step", "before_last_is_saved"), [(1, False), (2, True), (2, False), (3, False)],
    ids=["before the switch", "between both checkpoints", "at the switch", "after the switch"],
)  # fmt: skip
def test_a_run_that_is_killed_and_resumed_has_the_same_one(step, before_last_is_saved, tmp_path, stop_at):
    config = write_config(tmp_path)
    assert main(["fit", "--config", str(config)]) == 0
    expected = load_model(checkpoint(tmp_path)).state_dict()
    stop_at(step, before_last_is_saved)
    assert main(["fit", "--config", str(config), "--overwrite=true"]) == 2
    assert checkpoint(tmp_path).exists() == (step >= 2)
    before = checkpoint(tmp_path).stat().st_mtime_ns if step > 2 else None
    assert main(["fit", "--config", str(config), "--ckpt_path", str(checkpoint(tmp_path, "last"))]) == 0
    assert same(load_model(checkpoint(tmp_path)).state_dict(), expected)
    assert before in (None, checkpoint(tmp_path).stat().st_mtime_ns)  # what was passed is not written again


def test_with_accumulation_it_is_written_once_at_the_optimizer_step(tmp_path, seen, monkeypatch):
    written = []
    save = kdse.training.cli.L.Trainer.save_checkpoint

    def save_checkpoint(self, path, *rest, **settings):
        written.append((Path(path).name, self.global_step))
        save(self, path, *rest, **settings)

    monkeypatch.setattr(kdse.training.cli.L.Trainer, "save_checkpoint", save_checkpoint)
    config = write_config(tmp_path, steps=3, switch=1)
    assert main(["fit", "--config", str(config), "--trainer.accumulate_grad_batches=3"]) == 0
    assert [entry for entry in written if entry[0] == "switch.ckpt"] == [("switch.ckpt", 1)]
    assert same(load_model(checkpoint(tmp_path)).state_dict(), seen[1])


def test_of_several_switches_it_is_the_first(tmp_path):
    phases = [{"weights": {"*": 1.0}, "steps": 0}, {"weights": {"*": 1.0}, "steps": 1},
              {"weights": {"*": 0.5, "supervised": 0.5}, "steps": 1}, {"weights": {"supervised": 1.0}}]  # fmt: skip
    schedule = {"class_path": "kdse.schedule.Phases", "init_args": {"phases": phases}}
    assert main(["fit", "--config", str(write_config(tmp_path, schedule=schedule))]) == 0
    assert read_checkpoint(checkpoint(tmp_path))["global_step"] == 1


def test_a_schedule_of_one_phase_writes_none(tmp_path):
    schedule = {"class_path": "kdse.schedule.Joint"}
    assert main(["fit", "--config", str(write_config(tmp_path, schedule=schedule))]) == 0
    assert checkpoint(tmp_path, "last").exists() and not checkpoint(tmp_path).exists()


def test_writing_it_does_not_count_as_a_step(tmp_path, monkeypatch):
    """With a clock that moves one second a step and a thousand a checkpoint."""
    from kdse.training import step_times

    class Clock:
        now = 100.0
        time = perf_counter = staticmethod(lambda: Clock.now)

    def ticking(method, seconds):
        def call(self, *arguments):
            Clock.now += seconds
            return method(self, *arguments)

        return call

    monkeypatch.setattr(step_times, "time", Clock)
    monkeypatch.setattr(Distiller, "on_save_checkpoint", ticking(Distiller.on_save_checkpoint, 1000.0))
    monkeypatch.setattr(Distiller, "training_step", ticking(Distiller.training_step, 1.0))
    monkeypatch.setattr(step_times.StepTimes.__init__, "__defaults__", (50, 1))
    config = write_config(tmp_path, steps=6, switch=2, save_every_n_steps=100)
    assert main(["fit", "--config", str(config), "--trainer.limit_val_batches=0"]) == 0
    assert Clock.now > 1100.0 and checkpoint(tmp_path).exists()
    assert step_cost(tmp_path / "run").seconds_per_step == 1.0
