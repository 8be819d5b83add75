"""`ValidationScores`: collects scores over a validation or test epoch and turns them into numbers to log."""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kdse.data.batch import Batch, item_lengths
from kdse.metrics.gathering import gather_rows, item_names
from kdse.metrics.pool import ScorePool
from kdse.metrics.registry import Scores
from kdse.metrics.table import NOISY, Line, Row, Summary, check_failures, summarize

log = logging.getLogger(__name__)

#: The system whose values are logged under the bare metric name; others get their name as prefix.
STUDENT = "student"
#: Share of items whose noisy input cannot be scored above which `compute` raises: the data is at fault. A model that
#: fails (silence early in training, NaN) only warns: the run may recover.
MAX_FAILED_SHARE = 0.1
#: An item: its name, and the checksums of its clean and noisy audio.
Key = tuple[str, int, int]


class ValidationScores:
    """Scores batches of an epoch, possibly in worker processes, and summarises them when the epoch ends.

    Args:
        metrics: names from `kdse.metrics.METRICS`.
        workers: scoring processes; 0 scores in this process, but for native code.
        sample_rate_hz: of all audio.
    """

    def __init__(
        self, metrics: Sequence[str] = ("si_sdr", "pesq_wb", "estoi"), workers: int = 0, sample_rate_hz: int = 16000
    ) -> None:
        self.metrics = tuple(metrics)
        self.rows: list[Row] = []  # of the last epoch, all ranks together
        self.summary: Summary | None = None  # of these rows
        self._pool = ScorePool(self.metrics, sample_rate_hz, workers)
        self._pending: list[tuple[str, float, Key]] = []  # name, snr_db, key of what was submitted, in that order
        # validation items are fixed, so their noisy input is scored once a run; None: it is in the pool
        self._noisy: dict[Key, Scores | None] = {}

    def add(self, batch: Batch, estimates: Tensor, system: str = STUDENT) -> None:
        """Takes a batch and one system's estimates ``[B, N]``; the noisy input is added by itself.

        Padding beyond ``batch["samples"]`` is cut off. A batch without clean speech is ignored.
        """
        if batch.get("clean") is None:
            return
        waves = [wave.detach().float().cpu().numpy() for wave in (batch["clean"], batch["noisy"], estimates)]
        names = item_names(batch)
        snrs_db = batch["snr_db"].tolist() if batch.get("snr_db") is not None else [math.nan] * len(names)
        for name, length, snr_db, *padded in zip(names, item_lengths(batch), snrs_db, *waves, strict=True):
            clean, noisy, estimate = (wave[:length] for wave in padded)
            key = (name, zlib.crc32(clean.tobytes()), zlib.crc32(noisy.tobytes()))
            signals = {system: estimate}
            if system != NOISY and key not in self._noisy:
                self._noisy[key] = None
                signals[NOISY] = noisy
            self._pending.append((name, float(snr_db), key))
            self._pool.submit(name, clean, signals)

    def compute(self) -> dict[str, float]:
        """Ends the epoch: the numbers to log, the same on every rank; empty if nothing was added anywhere.

        For each metric ``m`` of the student: ``m`` (mean), ``m_improvement`` (over noisy), ``m_failed`` (items without
        a value) and, where the SNR is known, ``m_snr-5`` and the like. Other systems carry their name before it:
        ``noisy_m``, ``teacher_m``, ``teacher_m_improvement``. NaN means that no item had a value.

        Raises:
            ValueError: if too many noisy inputs could not be scored.
        """
        rows: dict[tuple[str, str], Row] = {}
        pending, self._pending = self._pending, []
        for (name, snr_db, key), scored in zip(pending, self._pool.collect(), strict=True):
            noisy = self._noisy[key] = scored.scores.get(NOISY) or self._noisy[key]
            assert noisy is not None  # it was submitted with this item or an earlier one
            for system, scores in {**scored.scores, NOISY: noisy}.items():
                rows.setdefault(
                    (system, name), Row(system, name, scores.values, scores.failures, snr_db, "", scores.pieces)
                )
        # what failed (a process may have crashed) is tried again next time
        self._noisy = {key: scores for key, scores in self._noisy.items() if scores and not scores.failures}
        self.rows = gather_rows(list(rows.values()))
        self.summary = summarize(self.rows, self.metrics, max_failed_share=None)
        for group, system, name, metric, why in self.summary.failures[:5]:
            log.warning("%s of %s on %s%s failed: %s", metric, system, group and group + "/", name, why)
        if len(self.summary.failures) > 5:
            log.warning("... and %d more failed scores", len(self.summary.failures) - 5)
        check_failures(self.summary, MAX_FAILED_SHARE, systems=[NOISY])
        return {key: value for line in self.summary.lines for key, value in self._numbers(line).items()}

    def close(self) -> None:
        """Ends the worker processes; a later `add` starts them again."""
        self._pool.close()
        self.__dict__.update(self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry what is known, not what is still in the pool."""
        known = {key: scores for key, scores in self._noisy.items() if scores}
        return {**self.__dict__, "_pending": [], "_noisy": known}

    def _numbers(self, line: Line) -> dict[str, float]:
        prefix = "" if line.system == STUDENT else f"{line.system}_"
        if not isinstance(line.snr_db, str):
            return {f"{prefix}{metric}_snr{line.snr_db:g}": line.values[metric] for metric in self.metrics}
        numbers: dict[str, float] = {}
        for metric in self.metrics:
            numbers[f"{prefix}{metric}"] = line.values[metric]
            if line.system != NOISY:
                numbers[f"{prefix}{metric}_improvement"] = line.improvements[metric]
            numbers[f"{prefix}{metric}_failed"] = float(line.failures[metric])
        return numbers
