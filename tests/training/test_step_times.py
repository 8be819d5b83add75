"""What a step costs, told by a clock that only the training itself moves."""

from __future__ import annotations

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from kdse.run.timing import step_cost
from kdse.training import step_times
from kdse.training.step_times import StepTimes

FILE_HEADER = ",".join(step_times.COLUMNS) + "\n"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(step_times, "time", clock)
    return clock


class Slow(L.LightningModule):
    """Batch i takes ``seconds(step)``, a validation 1000 s, a checkpoint 500 s and waiting for a batch 1 s."""

    def __init__(self, clock: Clock, seconds) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.clock, self.seconds = clock, seconds

    def training_step(self, batch, _):
        self.clock.now += self.seconds(self.global_step)
        return self.weight * batch.mean()

    def validation_step(self, batch, _):
        self.clock.now += 1000.0

    def on_save_checkpoint(self, checkpoint):
        self.clock.now += 500.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Waiting(torch.utils.data.Dataset):
    def __init__(self, clock: Clock, items: int) -> None:
        self.clock, self.items = clock, items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> torch.Tensor:
        self.clock.now += 1.0
        return torch.ones(2)


def train(folder, clock, seconds, steps=30, items=100, ckpt=None, callbacks=(), block_steps=10, **settings):
    timer = StepTimes(folder, block_steps=block_steps, warm_up=3)
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=1,
        default_root_dir=str(folder), callbacks=[timer, *callbacks], **settings,
    )  # fmt: skip
    loaders = DataLoader(Waiting(clock, items)), DataLoader([torch.ones(2)])
    trainer.fit(Slow(clock, seconds), *loaders, ckpt_path=ckpt)


def test_a_step_is_timed_with_its_wait_for_data_and_without_the_warm_up(tmp_path, clock):
    train(tmp_path, clock, lambda step: 50.0 if step < 3 else 4.0, limit_val_batches=0)
    cost = step_cost(tmp_path)
    assert cost.seconds_per_step == pytest.approx(5.0) and cost.steps_timed == 27
    assert cost.training_seconds == pytest.approx(3 * 50 + 27 * 4 + 30, abs=1.5)


def test_validation_and_checkpoints_are_not_part_of_a_step(tmp_path, clock):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step % 4 == 0:
                trainer.save_checkpoint(tmp_path / "x.ckpt")

    train(tmp_path, clock, lambda step: 4.0, val_check_interval=5, callbacks=[Save()])
    cost = step_cost(tmp_path)
    assert 4.0 <= cost.seconds_per_step <= 5.0  # of a step after a pause its wait is not known
    assert cost.steps_timed == 27 and cost.training_seconds > 6000


def test_epochs_as_short_as_a_step_are_timed(tmp_path, clock):
    train(tmp_path, clock, lambda step: 4.0, items=1)
    cost = step_cost(tmp_path)
    assert 4.0 <= cost.seconds_per_step <= 5.0 and cost.steps_timed == 27


def test_the_costly_phase_of_a_run_counts_by_its_share(tmp_path, clock):
    train(tmp_path, clock, lambda step: 9.0 if step < 13 else 2.0, steps=43, limit_val_batches=0)
    assert step_cost(tmp_path).seconds_per_step == pytest.approx((10 * 10.0 + 30 * 3.0) / 40)


def test_work_that_is_done_every_few_steps_counts(tmp_path, clock):
    train(tmp_path, clock, lambda step: 7.0 if step % 5 == 0 else 2.0, steps=43, limit_val_batches=0)
    assert step_cost(tmp_path).seconds_per_step == pytest.approx(4.0)


def test_a_busy_moment_of_the_machine_does_little(tmp_path, clock):
    train(tmp_path, clock, lambda step: 1000.0 if step == 17 else 4.0, limit_val_batches=0)
    assert step_cost(tmp_path).seconds_per_step < 5.0 * 1.2


def test_several_batches_that_make_a_step_are_one_step(tmp_path, clock):
    train(tmp_path, clock, lambda step: 4.0, accumulate_grad_batches=3, limit_val_batches=0)
    cost = step_cost(tmp_path)
    assert cost.seconds_per_step == pytest.approx(15.0) and cost.steps_timed == 27


def test_a_resumed_run_counts_repeated_steps_once_and_its_time_in_full(tmp_path, clock):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 20:
                trainer.save_checkpoint(tmp_path / "x.ckpt")

    train(tmp_path, clock, lambda step: 4.0, callbacks=[Save()], limit_val_batches=0)
    first = step_cost(tmp_path)
    train(tmp_path, clock, lambda step: 4.0, steps=40, ckpt=str(tmp_path / "x.ckpt"), limit_val_batches=0)
    both = step_cost(tmp_path)
    assert (first.steps_timed, both.steps_timed) == (27, 37)
    assert both.seconds_per_step == pytest.approx(5.0, abs=0.1)
    assert both.training_seconds == pytest.approx(first.training_seconds + 20 * 5, abs=3)


def test_another_run_in_the_same_folder_starts_anew(tmp_path, clock):
    train(tmp_path, clock, lambda step: 40.0, limit_val_batches=0)
    train(tmp_path, clock, lambda step: 4.0, limit_val_batches=0)
    assert step_cost(tmp_path).seconds_per_step == pytest.approx(5.0)


def test_a_run_too_short_to_tell_has_no_cost_and_a_time(tmp_path, clock):
    train(tmp_path, clock, lambda step: 4.0, steps=2, limit_val_batches=0)
    cost = step_cost(tmp_path)
    assert cost.seconds_per_step is None and cost.training_seconds > 8 and cost.steps_timed == 0
    assert step_cost(tmp_path / "nothing") is None


def test_a_failing_run_leaves_what_was_timed(tmp_path, clock):
    def seconds(step: int) -> float:
        if step == 8:
            raise RuntimeError("killed")
        return 4.0

    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, clock, seconds, limit_val_batches=0)
    assert step_cost(tmp_path).steps_timed == 5


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path):
    (tmp_path / "timing.csv").write_text(FILE_HEADER + "1.0,0,10,2.0,2.0,30.0\n1.0,1,10,4.0,4.0,70.0\n1.0,2,1")
    cost = step_cost(tmp_path)
    assert cost.seconds_per_step == 3.0 and cost.steps_timed == 20 and cost.training_seconds == 70.0


def test_on_a_gpu_its_own_clock_counts_and_is_waited_for_once_a_block(tmp_path, clock, monkeypatch):
    """Steps are only queued, at once; the stand-in GPU works 3 s at each, and its events know when it will."""
    gpu = SimpleNamespace(now=0.0, waited=[])

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            self.at = gpu.now

        def synchronize(self) -> None:
            gpu.waited.append(trainer.global_step)

        def elapsed_time(self, end: Event) -> float:
            return 1000 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    timer = StepTimes(tmp_path, block_steps=10, warm_up=0)
    module, trainer = SimpleNamespace(device=torch.device("cuda")), SimpleNamespace(global_step=0, is_global_zero=True)
    timer.on_train_start(trainer, module)
    for step in range(1, 21):
        timer.on_train_batch_start(trainer, module)
        gpu.now += 3.0
        trainer.global_step = step
        timer.on_train_batch_end(trainer, module)
    timer.on_train_end(trainer, module)
    assert step_cost(tmp_path) == (pytest.approx(3.0), 0.0, 20)
    assert set(gpu.waited) == {11, 20}


def test_only_the_first_process_writes(tmp_path, clock):
    timer = StepTimes(tmp_path, block_steps=2, warm_up=0)
    module = SimpleNamespace(device=torch.device("cpu"))
    trainer = SimpleNamespace(global_step=0, is_global_zero=False)
    timer.on_train_start(trainer, module)
    for step in range(1, 6):
        timer.on_train_batch_start(trainer, module)
        trainer.global_step = step
        timer.on_train_batch_end(trainer, module)
    timer.on_train_end(trainer, module)
    assert step_cost(tmp_path) is None
