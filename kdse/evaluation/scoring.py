"""Scoring one system on all test items, resumably."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.errors import UserError, shortened
from kdse.evaluation.held_out import samples_of
from kdse.evaluation.journal import Journal, Key
from kdse.evaluation.systems import System
from kdse.machine.files import fitting
from kdse.metrics.pool import Scored, ScorePool
from kdse.metrics.registry import Scores, failed
from kdse.metrics.table import FAILURES, NOISY, PIECES, Row, to_csv

if TYPE_CHECKING:
    from torch import Tensor

    from kdse.evaluation.held_out import HeldOut, Item


def score_system(
    label: str,
    system: System,
    held_out: HeldOut,
    pool: ScorePool,
    journal: Journal,
    advance: Callable[[], None] = lambda: None,
    audio: Path = Path("audio"),
    audio_items: int = 0,
) -> list[Row]:
    """One system's rows, in the order of the items; what the journal knows is not computed again.

    Args:
        label: name of the system.
        system: what makes the estimate.
        held_out: the items.
        pool: scores them.
        journal: keeps every score as soon as it is there.
        advance: called after every item, from any thread.
        audio: folder that gets the first ``audio_items`` estimates as wav (with the clean speech, if noisy).
        audio_items: how many.

    Raises:
        ValueError: as a pass of ``held_out``, or if a file cannot be written. What a model raises fails its item only.
    """
    known: list[tuple[str, str, float, Scores | None]] = []  # None where the pool will have it
    for index, item in enumerate(held_out):
        key = Key(system.identity, item.group, item.name, item.checksum())
        scores = journal.get(key) if system.identity else None
        if scores is None or index < audio_items:
            try:
                estimate = system.enhance(item)
            except Exception as error:  # a model can raise anything; the other items count all the same
                what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                scores = failed(pool.metrics, what + shortened(error, 300))
            else:
                if index < audio_items:
                    _save_audio(audio, item, label, estimate, held_out.sample_rate_hz)
                if not system.identity:
                    key = key._replace(system=sha256(samples_of(estimate)).hexdigest()[:16])
                    scores = journal.get(key)
                if scores is None:
                    done = functools.partial(_keep, journal, key, label, advance)
                    pool.submit(item.name, item.clean, {label: estimate}, done)
        if scores is not None:
            advance()
        known.append((item.group, item.name, item.snr_db, scores))
    scored = iter(pool.collect())
    rows = []
    for group, name, snr_db, scores in known:
        found = scores or next(scored).scores[label]
        rows.append(Row(label, name, found.values, found.failures, snr_db, group, found.pieces))
    return rows


def per_file_csv(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """One line an item and system, sorted by set, system (as given) and name.

    Its last columns are notes by metric: reasons of failures, and before them, if there are any, of how many pieces of
    a long file a value is the mean.
    """
    notes = [PIECES, FAILURES] if any(row.pieces for row in rows) else [FAILURES]
    order = list(dict.fromkeys(row.system for row in rows))
    table: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: (r.group, order.index(r.system), r.name)):
        numbers = {"snr_db": row.snr_db, **{metric: row.values[metric] for metric in metrics}}
        told = {note: "; ".join(f"{metric}: {what}" for metric, what in getattr(row, note).items()) for note in notes}
        known = {name: None if math.isnan(number) else number for name, number in numbers.items()}
        table.append({"set": row.group, "system": row.system, "name": row.name, **known, **told})
    return to_csv(table)


def _keep(journal: Journal, key: Key, label: str, advance: Callable[[], None], scored: Scored) -> None:
    journal.put(key, scored.scores[label])
    advance()


def _save_audio(folder: Path, item: Item, label: str, estimate: Tensor, sample_rate_hz: int) -> None:
    from kdse.audio.files import write

    snr = "" if math.isnan(item.snr_db) else f"_{item.snr_db:g}dB"
    stem = "_".join(f"{item.group} {item.name}{snr}".replace("/", "_").split())
    signals = {label: estimate} | ({"clean": item.clean} if label == NOISY else {})
    for name, signal in signals.items():
        file_name = f"{fitting(stem)}_{name}.wav".replace("/", "_")
        try:
            write(folder / file_name, signal.clamp(-1, 1), sample_rate_hz)
        except (OSError, RuntimeError, UserError) as error:  # (soundfile's own error is a RuntimeError)
            raise UserError(f"--save-audio: {folder / file_name} could not be written ({error})") from None
