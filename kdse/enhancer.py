"""`Enhancer`: one model trained with clean speech. Teachers and baselines are trained with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from kdse.compiling import (
    Compiled,
    CompiledNetwork,
    announce,
    no_compiler,
    prepare,
    why_eager,
    why_eager_network,
)
from kdse.data.batch import Batch, by_length
from kdse.data.shared import check_shared
from kdse.distributed import check_processes, take_buffers_of_rank_zero
from kdse.errors import UserError, require_at_least
from kdse.gradients import window_factor
from kdse.internals.lightning import batches_started
from kdse.losses import PhaseSensitive, WeightedSum
from kdse.machine.memory import keep_freed_memory
from kdse.metrics.gathering import ItemLosses, item_names
from kdse.metrics.validation import ValidationScores
from kdse.models.base import Estimate, Tap, rows_of
from kdse.models.build import ModelOrFactory, build
from kdse.models.checkpoint import describe, load_weights, read_checkpoint
from kdse.precision import check_precision
from kdse.run.optimizer_settings import check_optimizer
from kdse.schedule import SUPERVISED
from kdse.seeding import seed_batch
from kdse.taps import record

log = logging.getLogger(__name__)

#: Epochs after which Lightning steps a scheduler that we step ourselves.
NEVER = 10**9


def has_labels(batch: Batch) -> bool:
    """Whether any item of a batch has clean speech."""
    labelled = batch.get("labelled")
    return labelled is None or bool(labelled.any())


class Enhancer(L.LightningModule):
    """One speech-enhancement model and a supervised loss.

    Args:
        model: the network.
        loss: supervised loss; None means the phase-sensitive approximation (`kdse.losses.PhaseSensitive`).
        optimizer: builds the optimizer from parameters. Adam at 6e-5 is the two-step paper's.
        lr_scheduler: builds a learning-rate scheduler from the optimizer, stepped once an epoch (one that watches a
            value, after each validation); None for none.
        metrics: what validation and test measure besides the loss; see `kdse.metrics`.
        metric_workers: processes that compute metrics; 0 computes them in the training process, but for those whose
            native code can crash (PESQ, DNSMOS), which have one of their own.
        weights: checkpoint to take initial weights from (not a resume: use --ckpt_path for that).
        compile: run training steps through torch.compile where that pays: half a minute or more before the first step,
            a few seconds in later runs on this machine. The log says which parts it is.
    """

    def __init__(
        self,
        model: ModelOrFactory,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=6e-5),
        lr_scheduler: LRSchedulerCallable | None = None,
        metrics: list[str] = ["si_sdr", "pesq_wb", "estoi"],  # noqa: B006 (jsonargparse shows it in --help)
        metric_workers: int = 0,
        weights: str | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        require_at_least(0, metric_workers=metric_workers)
        self.model = build(model, "student")
        self.loss = PhaseSensitive() if loss is None else loss
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        self._plateau: tuple[torch.optim.lr_scheduler.ReduceLROnPlateau, str] | None = None
        self.scores = ValidationScores(tuple(metrics), workers=metric_workers, sample_rate_hz=self.model.sample_rate_hz)
        if weights is not None:
            load_weights(self.model, read_checkpoint(weights)["state_dict"], source=f"--model.weights {weights}")
        self._compiles = compile
        self._student_pass: CompiledNetwork | None = None  # these two while a run with `compile` trains
        self._compiled_loss: Compiled | None = None
        self._losses = ItemLosses()  # of this epoch's validation or test
        self._terms: dict[str, Tensor | float] = {}
        self._logged_step = -1
        self._resumed: dict[str, Any] | None = None  # the checkpoint of a fit, until its optimizer is made
        describe(self.model)  # a model that no checkpoint could describe is refused now, not after hours of training

    # --- the loop ---

    def forward(self, noisy: Tensor) -> Estimate:
        return self.model(noisy)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.supervised_loss(record(self.model, {}, batch["noisy"], self._student_pass)[0], batch)
        self.note_supervised(loss, weight=1.0, labelled=has_labels(batch))
        self.log_step(loss)
        return loss * window_factor(self.trainer, batch_idx)

    def supervised_loss(self, estimate: Estimate, batch: Batch) -> Tensor:
        """The supervised loss of an estimate: over the labelled items of the batch, zero if there are none.

        Raises:
            ValueError: if the data has no clean speech at all.
        """
        clean = batch.get("clean")
        if clean is None:
            raise UserError(
                "the supervised loss needs clean speech and this data has none; give labelled data, or set its "
                "schedule weight to zero (--schedule kdse.schedule.Joint --schedule.gamma 1)"
            )
        noisy = batch["noisy"]
        labelled = batch.get("labelled")
        if labelled is not None and not bool(labelled.all()):
            if not has_labels(batch):
                return estimate.waveform[:0].sum()  # nothing to learn from, yet every parameter stays connected
            estimate = rows_of(estimate, labelled)
            return self.loss(estimate, clean[labelled], noisy[labelled])
        return (self._compiled_loss or self.loss)(estimate, clean, noisy)

    def on_fit_start(self) -> None:
        self.check_labels([SUPERVISED])

    def on_train_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()
        check_shared(self.trainer, self.trainer.train_dataloader, "training")
        if self._compiles:
            missing = no_compiler(self.device)
            announce({"everything": missing} if missing else self.compile_parts())

    def compile_parts(self) -> dict[str, str | None]:
        """Compiles what pays; returns the names of all parts, each with the reason why it runs eager or None."""
        prepare(keep_graphs=False)
        return self.compile_student({})

    def compile_student(self, taps: Mapping[str, Tap]) -> dict[str, str | None]:
        """`compile_parts` of the student with these taps and of the supervised loss."""
        student, loss = why_eager_network(self.model, taps, self.device, trains=True), why_eager(self.loss, self.device)
        if student is None:
            self._student_pass = CompiledNetwork(self.model, taps, "student")
        if loss is None:
            self._compiled_loss = Compiled(self.loss.forward, "supervised loss")
        return {"student": student, "supervised loss": loss}

    def check_labels(self, terms: list[str]) -> None:
        """Refuses to train terms that need clean speech on data that has none, before the first step."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if terms and getattr(datamodule, "labelled_share", 1.0) == 0:
            raise UserError(
                f"the {terms[0]} loss needs clean speech and this data has none (--data.labelled_share is 0, or the "
                "data is a NoisyFolder); give labelled data, or let the teacher alone teach: --schedule "
                "kdse.schedule.Joint --schedule.gamma 1, with objectives that need no clean speech"
            )

    def note_supervised(self, raw: Tensor, weight: float, labelled: bool = True) -> None:
        """Notes the supervised loss and the parts of a `WeightedSum` for the log, unless the batch has no labels."""
        if not labelled:
            return
        self.note_term(SUPERVISED, raw, weight)
        if isinstance(self.loss, WeightedSum):
            for name, part in self.loss.parts.items():
                self.note_term(f"{SUPERVISED}/{name}", part, weight * self.loss.weights[name])

    def note_term(self, name: str, raw: Tensor, weight: float) -> None:
        """Notes one term of the total for the log: raw value, weight and weighted value, under its name."""
        raw = raw.detach()
        self._terms |= {
            f"terms/{name}/raw": raw,
            f"terms/{name}/weight": weight,
            f"terms/{name}/weighted": weight * raw,
        }

    def log_step(self, total: Tensor) -> None:
        """Sends what was noted since the last call, the total and the learning rate to the loggers.

        Not by ``self.log``, which repeats a term's last value for as long as the run goes on without that term.
        """
        total = total.detach()
        self.log("train/loss", total, prog_bar=True, logger=False)
        terms, self._terms = self._terms, {}
        due = (self.global_step + 1) % max(1, getattr(self.trainer, "log_every_n_steps", 1)) == 0
        if not due or self._logged_step == self.global_step:
            return
        self._logged_step = self.global_step
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        values = {name: float(value) for name, value in {**terms, "train/loss": total, "train/lr": rate}.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.global_step)

    def configure_optimizers(self) -> Any:
        try:
            optimizer = self._make_optimizer(self.trained_parameters())
            scheduler = None if self._make_lr_scheduler is None else self._make_lr_scheduler(optimizer)
        except (ValueError, TypeError) as error:
            raise UserError(f"--model.optimizer, --model.lr_scheduler: {error}") from error
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # (some schedulers set it; for a start from a checkpoint)
        if self._resumed is not None:
            check_optimizer(self._resumed, optimizer, scheduler, str(self.trainer.ckpt_path))
            self._resumed = None
        if scheduler is None:
            return optimizer
        if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}
        watched = getattr(scheduler, "monitor", None)
        if watched is None:
            raise UserError(
                "--model.lr_scheduler: torch's ReduceLROnPlateau does not say what it watches; use "
                "lightning.pytorch.cli.ReduceLROnPlateau with --model.lr_scheduler.monitor=val/loss"
            )
        # stepped in `on_validation_end`: Lightning would step it at the end of an epoch, which a resume may skip, and
        # which may have had no validation
        self._plateau = (scheduler, watched)
        about = {"scheduler": scheduler, "monitor": watched, "interval": "epoch", "frequency": NEVER}
        return {"optimizer": optimizer, "lr_scheduler": about}

    def on_validation_end(self) -> None:
        if self._plateau is None or self.trainer.sanity_checking or self.trainer.state.fn != "fit":
            return
        scheduler, watched = self._plateau
        if watched not in self.trainer.callback_metrics:
            known = ", ".join(sorted(self.trainer.callback_metrics))
            raise UserError(
                f"--model.lr_scheduler.monitor={watched}: nothing of this name is logged; there are {known}"
            )
        scheduler.step(self.trainer.callback_metrics[watched])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_batch(batches_started(self.trainer), self.trainer.global_rank)

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """What the optimizer gets."""
        return self.model.parameters()

    def setup(self, stage: str) -> None:
        check_processes(self.trainer.world_size)
        check_precision(self.trainer.precision)
        datamodule = getattr(self.trainer, "datamodule", None)
        rate = getattr(datamodule, "sample_rate_hz", None)
        if rate is not None and rate != self.model.sample_rate_hz:
            raise UserError(
                f"--data.sample_rate_hz={rate} differs from the model's {self.model.sample_rate_hz} Hz; "
                f"set it to {self.model.sample_rate_hz}"
            )

    # --- validation, test, prediction ---

    def on_validation_start(self) -> None:
        take_buffers_of_rank_zero(self)  # what is measured is what is saved

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for _, part in by_length(batch):  # (none: a process without a share of the items gets a batch of none)
            self._evaluate(part, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        for _, part in by_length(batch):
            self._evaluate(part, "test")

    def _evaluate(self, batch: Batch, stage: str) -> None:
        """Scores items of equal length, without padding."""
        estimate = self.model(batch["noisy"])
        if batch.get("clean") is not None:
            self._losses.add(*self._item_losses(estimate, batch))
            self.scores.add(batch, estimate.waveform)

    def _item_losses(self, estimate: Estimate, batch: Batch) -> tuple[list[str], list[Tensor]]:
        """Names and losses of the labelled items of a batch, each item as a batch of its own."""
        names, known = item_names(batch), batch.get("labelled")
        rows = [row for row in range(len(names)) if known is None or bool(known[row])]
        clean, noisy = batch["clean"], batch["noisy"]
        losses = [
            self.loss(
                rows_of(estimate, torch.tensor([row], device=noisy.device)), clean[row : row + 1], noisy[row : row + 1]
            )
            for row in rows
        ]
        return [names[row] for row in rows], losses

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        loss = self._losses.compute()
        values = {**({} if loss is None else {"loss": loss}), **self.scores.compute()}
        shown = {"si_sdr", "pesq_wb"}
        for name, value in values.items():
            self.log(f"{stage}/{name}", float(value), prog_bar=name in shown, rank_zero_only=False, sync_dist=False)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The estimates ``[B, N]``, each as of its item alone; zeros after its end."""
        estimates = torch.zeros_like(batch["noisy"])
        for rows, part in by_length(batch):
            estimates[rows, : part["noisy"].shape[-1]] = self.model(part["noisy"]).waveform.to(estimates)
        return estimates

    def on_predict_start(self) -> None:
        check_shared(self.trainer, self.trainer.predict_dataloaders, "predict")

    def teardown(self, stage: str) -> None:
        self._student_pass = self._compiled_loss = None
        self.scores.close()

    # --- checkpoints ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["kdse"] = describe(self.model)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        self._resumed = checkpoint if self.trainer.state.fn == "fit" else None
        load_weights(self.model, state, source=f"--ckpt_path {Path(str(self.trainer.ckpt_path or '')).name}")
