"""What kdse uses of Lightning's internals is there, does what kdse takes it to do, and is missed in one sentence."""

from __future__ import annotations

import inspect
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import wandb
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.overrides import distributed
from lightning.pytorch.trainer.connectors import data_connector
from lightning.pytorch.utilities import data, rank_zero_only
from torch.utils.data import BatchSampler

from kdse.internals import lightning as internals
from kdse.internals.library import MissingInternal
from kdse.internals.lightning import LIGHTNING, FlagsWinCLI
from tests.internals.absence import Line, fit, loader, sentence


class Noted(CSVLogger):
    """Notes at which step each value is logged."""

    def __init__(self, folder: Any) -> None:
        super().__init__(folder)
        self.steps: list[tuple[str, int | None]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        self.steps += [(name, step) for name in metrics]


class Watching(L.Callback):
    """Notes what the counters say, and how a validation was foretold."""

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift
        self.started: list[int] = []
        self.processed: list[int] = []
        self.logged: list[int] = []
        self.events: list[Any] = []

    def on_train_batch_start(self, trainer, *_):
        self.started.append(internals.batches_started(trainer))

    def on_train_batch_end(self, trainer, *_):
        self.processed.append(internals.batches_processed(trainer))
        self.events.append(internals.validation_due(trainer))

    def on_validation_start(self, trainer, *_):
        self.events.append("validation")
        if self.shift:
            internals.set_logged_step(trainer, internals.logged_step(trainer) + self.shift)

    def on_validation_end(self, trainer, *_):
        self.logged.append(internals.logged_step(trainer))


def test_batches_are_counted_over_the_whole_run_and_not_by_epoch_or_optimizer_step(tmp_path):
    watching = Watching()
    fit(tmp_path, watching, batches=3, max_epochs=2, accumulate_grad_batches=3)
    assert watching.started == watching.processed == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("shift", [0, 7])
def test_the_logged_step_is_where_lightning_logs_a_validation(tmp_path, shift):
    watching, logger = Watching(shift), Noted(tmp_path)
    fit(tmp_path, watching, logger=logger, batches=6, accumulate_grad_batches=2, val_check_interval=2)
    assert [step for name, step in logger.steps if name == "val"] == watching.logged
    assert watching.logged == [shift + 0, 2 * shift + 1, 3 * shift + 2]


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 2}, {"check_val_every_n_epoch": 2, "max_epochs": 2}])
def test_a_validation_is_due_after_exactly_those_batches_that_one_follows(tmp_path, settings):
    watching = Watching()
    fit(tmp_path, watching, **settings)
    events = [*watching.events, None]
    followed = [b == "validation" for a, b in zip(events, events[1:], strict=False) if a != "validation"]
    assert [event for event in watching.events if event != "validation"] == followed and any(followed)


def test_a_validation_can_be_held_in_a_fit_which_then_goes_on(tmp_path):
    seen = []

    class Hold(L.Callback):
        def on_train_start(self, trainer, module):
            internals.hold_validation(trainer)
            seen.append((trainer.training, module.training))

        def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            seen.append(batch_idx)

    trainer = fit(tmp_path, Hold(), batches=4)
    assert seen == [0, 1, 2, (True, True), 0, 1, 2] and trainer.global_step == 4


@pytest.mark.parametrize(("given", "after_validation"), [(None, True), (True, False), (False, True)])
def test_early_stopping_looks_after_validations_unless_its_settings_say_when(tmp_path, given, after_validation):
    stopping = EarlyStopping("val", check_on_train_epoch_end=given)
    internals.stop_early_after_validations(stopping)
    looked = []

    class After(L.Callback):
        def on_validation_end(self, trainer, module):
            looked.append(bool(stopping.best_score.isfinite()))

    fit(tmp_path, stopping, After())
    assert looked == [after_validation]


@pytest.mark.parametrize("shares", [True, False])
def test_whether_lightning_shares_samplers_is_what_the_trainer_was_told(shares):
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, use_distributed_sampler=shares)
    assert internals.shares_samplers(trainer) is shares


def test_the_batch_sampler_of_a_predict_loader_is_the_one_it_was_made_with(tmp_path):
    found = []

    class Look(L.Callback):
        def on_predict_start(self, trainer, module):
            predicting = trainer.predict_dataloaders
            found.extend([type(predicting.batch_sampler), type(internals.own_batch_sampler(predicting))])

    fit(tmp_path, Look()).predict(Line(), loader(2))
    assert found == [distributed._IndexBatchSamplerWrapper, BatchSampler]
    plain = loader(2)
    assert internals.own_batch_sampler(plain) is plain.batch_sampler


def test_the_last_saved_step_is_that_of_the_last_file(tmp_path):
    saving = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_on_train_epoch_end=False)
    assert internals.last_saved_step(saving) == 0
    fit(tmp_path, saving, batches=5, enable_checkpointing=True)
    assert internals.last_saved_step(saving) == 4
    assert torch.load(saving.best_model_path, weights_only=True)["global_step"] == 4


def test_wandb_is_started_without_the_argument_that_it_warns_of(tmp_path, monkeypatch):
    given: dict[str, Any] = {}
    monkeypatch.setattr(wandb, "init", lambda **settings: given.update(settings))
    logger = WandbLogger(save_dir=tmp_path, mode="offline")
    internals.leave_anonymous_out(logger)
    _ = logger.experiment
    assert given["mode"] == "offline" and "anonymous" not in given


def test_the_rank_is_that_of_rank_zero_only(monkeypatch):
    assert internals.process_rank() == 0
    monkeypatch.setattr(rank_zero_only, "rank", 3)
    assert internals.process_rank() == 3


def command_line(base: type, checkpoint: Any, called: dict[str, Any]) -> Any:
    class Cli(base):
        def after_instantiate_classes(self) -> None:
            self.config_init[self.subcommand]["weights_only"] = True

        def validate(self, **settings: Any) -> None:
            called.update(settings)

    words = ["validate", "--model.width=3", f"--ckpt_path={checkpoint}", "--trainer.logger=false"]
    return Cli(model_class=Line, args=[*words, "--trainer.accelerator=cpu"], save_config_callback=None)


@pytest.mark.parametrize(("base", "width"), [(LightningCLI, 9), (FlagsWinCLI, 3)])
def test_a_checkpoint_overrides_lightnings_command_line_and_not_kdses(tmp_path, base, width):
    torch.save({"hyper_parameters": {"width": 9}}, tmp_path / "a.ckpt")
    called: dict[str, Any] = {}
    assert command_line(base, tmp_path / "a.ckpt", called).model.width == width
    # what `KdseCLI.after_instantiate_classes` settles is what the trainer is called with
    assert called["weights_only"] is True and called["ckpt_path"] == str(tmp_path / "a.ckpt")


def test_the_hidden_warnings_are_worded_as_lightning_words_them():
    assert internals.MID_EPOCH in inspect.getsource(training_epoch_loop)
    known = inspect.getsource(data_connector) + inspect.getsource(data)
    assert internals.CUSTOM_SAMPLER.partition("`")[0] in known


def test_what_is_hidden_is_worded_as_lightning_and_torch_word_it_and_nothing_else_is_hidden(caplog):
    files = (path for path in Path(L.__file__).parent.joinpath("pytorch").rglob("*.py"))
    known = " ".join(path.read_text(encoding="utf-8") for path in files) + inspect.getsource(torch.utils._pytree)
    old = {"`LeafSpec` is deprecated"}  # (of earlier releases of PyTorch)
    assert [part for part in {*internals.NOT_FOR_USERS, *internals.NOT_LOGGED} - old if part not in known] == []
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        internals.quiet()
        for part in (*internals.NOT_FOR_USERS, "another"):
            warnings.warn(f"before {part} after", stacklevel=1)
        assert ["another" in str(warning.message) for warning in shown] == [True]
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    for part in (*internals.NOT_LOGGED, "another"):
        logger.warning("before %s after", part)
    assert [record.getMessage() for record in caplog.records if record.name == logger.name] == ["before another after"]


def trainer() -> L.Trainer:
    return L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


ABSENT: list[tuple[Any, Any, str]] = [  # (what is called, whose attribute is taken away, which)
    (internals.logged_step, lambda t: t.fit_loop.epoch_loop, "_batches_that_stepped"),
    (lambda t: internals.set_logged_step(t, 1), lambda t: t.fit_loop.epoch_loop, "_batches_that_stepped"),
    (internals.batches_started, lambda t: t.fit_loop.epoch_loop, "batch_progress"),
    (internals.batches_processed, lambda t: t.fit_loop, "epoch_loop"),
    (internals.validation_due, lambda t: t.fit_loop, "_data_fetcher"),
    (internals.validation_due, lambda t: type(t.fit_loop.epoch_loop), "_should_check_val_fx"),
    (internals.hold_validation, lambda t: t.fit_loop.epoch_loop, "val_loop"),
    (internals.hold_validation, lambda t: type(t.fit_loop.epoch_loop.val_loop), "run"),
    (internals.shares_samplers, lambda t: t, "_accelerator_connector"),
    (internals.shares_samplers, lambda t: t._accelerator_connector, "use_distributed_sampler"),
    (lambda t: internals.own_batch_sampler(loader(1)), lambda t: distributed, "_IndexBatchSamplerWrapper"),
    (lambda t: internals.process_rank(), lambda t: rank_zero_only, "rank"),
    (lambda t: FlagsWinCLI(model_class=Line, args=[]), lambda t: LightningCLI, "_parse_ckpt_path"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "owner", "name"), ABSENT, ids=[f"{i}-{row[2]}" for i, row in enumerate(ABSENT)])
def test_an_internal_that_is_gone_is_named_with_versions_and_the_fix(monkeypatch, call, owner, name):
    made = trainer()
    monkeypatch.delattr(owner(made), name)
    with pytest.raises(MissingInternal, match=sentence(LIGHTNING, name)):
        call(made)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (internals.stop_early_after_validations, "_check_on_train_epoch_end"),
        (internals.last_saved_step, "_last_global_step_saved"),
        (internals.leave_anonymous_out, "_wandb_init"),
    ],
)
def test_an_attribute_that_an_object_lacks_is_named_too(call, name):
    with pytest.raises(MissingInternal, match=sentence(LIGHTNING, name)):
        call(SimpleNamespace())
