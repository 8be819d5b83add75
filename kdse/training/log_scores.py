"""`LogScores`: the table of every validation and test in TensorBoard and W&B, and the plots of a run in W&B."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from kdse.internals.lightning import logged_step, set_logged_step
from kdse.metrics.table import NOISY, Row, records, summarize
from kdse.metrics.validation import STUDENT, ValidationScores
from kdse.report.contents import Figure
from kdse.report.tables.scores import score_table
from kdse.report.tables.writers import to_markdown


class LogScores(L.Callback):
    """Logs the scores of every system at every input SNR.

    W&B gets the table ``val/scores`` (``test/scores``) at every validation and, when training or a test ends, the plots
    ``plots/...``; TensorBoard gets the table as text. Systems that were not scored this time, as a frozen teacher, keep
    their last scores, also through a resume.

    Args:
        run_dir: the run folder, whose log the training curves are drawn from.
    """

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__()
        self.run_dir = Path(run_dir)
        self._rows: dict[str, list[Row]] = {}  # by system, of the last validation that scored it

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # Lightning counts one too many when it resumes at the end of an epoch, and would log scores a step too late
        if len(trainer.optimizers) == 1:
            set_logged_step(trainer, trainer.global_step)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scores = getattr(pl_module, "scores", None)
        if trainer.sanity_checking or not isinstance(scores, ValidationScores) or not scores.rows:
            return
        for system in {row.system: None for row in scores.rows}:
            self._rows[system] = [row for row in scores.rows if row.system == system]
        self._log_table(trainer, "val", self._known(), scores.metrics)
        if trainer.state.fn == "validate":
            from kdse.report.figures.by_snr import improvement_by_snr

            self._log_figures(trainer, improvement_by_snr(self._known(), scores.metrics))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        from kdse.report.figures.by_snr import improvement_by_snr

        scores = getattr(pl_module, "scores", None)
        if isinstance(scores, ValidationScores) and scores.rows:
            self._log_table(trainer, "test", scores.rows, scores.metrics)
            if _wandb_loggers(trainer):
                self._log_figures(trainer, improvement_by_snr(scores.rows, scores.metrics), prefix="test_")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        scores = getattr(pl_module, "scores", None)
        if not _wandb_loggers(trainer) or not isinstance(scores, ValidationScores):
            return
        from kdse.report.figures.by_snr import improvement_by_snr
        from kdse.report.figures.curves import training_curves

        curves = [training_curves({self.run_dir.resolve().name: self.run_dir}, metric) for metric in scores.metrics]
        figures = [*improvement_by_snr(self._known(), scores.metrics), *filter(None, curves)]
        self._log_figures(trainer, figures, step=max(0, logged_step(trainer) - 1))  # where the last scores are

    def _known(self) -> list[Row]:
        return [row for rows in self._rows.values() for row in rows]

    def _log_table(self, trainer: L.Trainer, stage: str, rows: list[Row], metrics: tuple[str, ...]) -> None:
        if not trainer.is_global_zero or not trainer.loggers:
            return
        summary = summarize(rows, metrics, max_failed_share=None)
        step, table = logged_step(trainer), records(summary)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(f"{stage}/scores", to_markdown(score_table(rows, metrics)), step)
            elif isinstance(logger, WandbLogger):
                from kdse.report.wandb_log import table_of

                content: Any = table_of(list(table[0]), [list(record.values()) for record in table])
                logger.log_metrics({f"{stage}/scores": content}, step=step)

    def _log_figures(
        self, trainer: L.Trainer, figures: Iterable[Figure], prefix: str = "", step: int | None = None
    ) -> None:
        from kdse.report.wandb_log import image_of

        step = logged_step(trainer) if step is None else step
        for logger in _wandb_loggers(trainer):
            with tempfile.TemporaryDirectory() as scratch:
                content: Any = {f"plots/{prefix}{f.key}": image_of(f, Path(scratch)) for f in figures}
                if content:
                    logger.log_metrics(content, step=step)

    # --- a resumed run still knows what a frozen teacher scored ---

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [_stored(row) for row in self._known() if row.system not in (STUDENT, NOISY)]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for stored in state_dict["rows"]:
            row = Row(**stored)
            self._rows.setdefault(row.system, []).append(row)


def _wandb_loggers(trainer: L.Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)] if trainer.is_global_zero else []


def _stored(row: Row) -> dict[str, Any]:
    """Plain data, which a checkpoint may hold."""
    return {**asdict(row), "snr_db": float(row.snr_db), "values": {m: float(v) for m, v in row.values.items()}}
