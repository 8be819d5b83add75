"""Stopping a run by signal (preemption, a time limit, Ctrl-C) so that it can go on: last.ckpt is written."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from kdse.distributed import world_size
from kdse.machine.processes import INTERRUPTED, STOPPED
from kdse.models.checkpoint import LAST
from kdse.training.wandb_logger import RunLogger

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopSignals:
    """Handler of SIGTERM, SIGUSR1 and SIGINT: the first ends the process, later ones do nothing but Ctrl-C.

    While ``deferred`` is on, the first is only noted (``received``), for whoever ends the process at a good moment.
    Ctrl-C after another signal is left to the system, which ends the process at once, wherever it is.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = False
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Takes the signals, again where Lightning has taken them since; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS if self.received is None else ():
            if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started with nohup, or in the background of a script
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def restore(self) -> None:
        """Gives the signals back, unless the process is ending because of one: it must not die of the next.

        (Ignored rather than taken: Python itself lets go of what is taken when it shuts down.)
        """
        for number, before in self._before.items():
            known = signal.SIG_DFL if before is None else before
            ending = signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN
            signal.signal(number, known if self.received is None else ending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            return
        self.received = number
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not self.deferred:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(self.exit_code)

    @property
    def exit_code(self) -> int:
        """75 for "start me again"; 130 after Ctrl-C, at which whatever started the process should stop as well."""
        return INTERRUPTED if self.received == signal.SIGINT else STOPPED


class StopOnSignal(L.Callback):
    """Ends training at the next whole optimizer step after a signal to any process, with ``last.ckpt`` written there.

    All processes agree on the step over a group of their own on the CPU, so that no GPU waits for it. During a
    validation nothing is written: training before it is kept up to the last checkpoint, and is repeated to the same
    weights. One process stops in the middle of a validation; several at its end, since they wait for each other's
    scores. Lightning's own handler for SLURM saves wherever the signal arrives, in the middle of a step as well; this
    one takes its place. A W&B run is marked as preempting, so that a sweep's server queues it again.

    Args:
        folder: of the checkpoints.
        stop: the signals of this process.
        go_on: the command that goes on with the run.
    """

    def __init__(self, folder: str | Path, stop: StopSignals, go_on: str = "--resume=true") -> None:
        super().__init__()
        self.file, self.stop, self.go_on = Path(folder) / LAST, stop, go_on
        self._step = 0
        self._group: Any = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.deferred = True
        several = world_size() > 1 and dist.get_backend() != "gloo"
        self._group = dist.new_group(backend="gloo") if several else None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.install()  # (Lightning has put its own in place by now)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.stop.install()
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step:
            return  # one of several batches that make a step: gradients are in no checkpoint
        self._step = trainer.global_step
        if self._any_received():
            trainer.save_checkpoint(self.file, weights_only=False)
            self._leave(
                trainer,
                f"stopped by {self._name} after optimizer step {self._step}, which {self.file} holds; go on with: "
                f"{self.go_on}",
            )

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if world_size() == 1 and self.stop.received is not None:
            self._leave_validation(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if world_size() > 1 and self._any_received():
            self._leave_validation(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._group = None

    def _any_received(self) -> bool:
        if world_size() > 1:
            flag = torch.tensor([self.stop.received or 0])
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
            self.stop.received = int(flag) or None
        return self.stop.received is not None

    @property
    def _name(self) -> str:
        return "Ctrl-C" if self.stop.received == signal.SIGINT else "a signal"

    def _leave_validation(self, trainer: L.Trainer) -> None:
        self._leave(
            trainer,
            f"stopped by {self._name} during validation; go on from the last checkpoint before it with: {self.go_on}",
        )

    def _leave(self, trainer: L.Trainer, why: str) -> None:
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, RunLogger):
                    logger.mark_preempting()
            log.warning("%s", why)
        environment = getattr(trainer.strategy, "cluster_environment", None)
        started_here = environment is not None and not environment.creates_processes_externally
        # (Lightning kills the process that started the others five seconds after one of them has ended with an error)
        raise SystemExit(0 if started_here and trainer.global_rank > 0 else self.stop.exit_code)
