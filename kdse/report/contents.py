"""What a report holds, as plain data: tables, figures, files to listen to. Writers (HTML, W&B) need nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from kdse.report.tables.table import Table


def file_name(key: str) -> str:
    """A key without what file names, Markdown and LaTeX cannot take: other characters become one underscore."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", key).strip("_.") or "unnamed"


@dataclass(frozen=True)
class Figure:
    """A picture.

    key: name for files (see `file_name`). title: for people. alt: what a reader who cannot see it needs to know, with
    the numbers that matter. png: the picture itself.
    """

    key: str
    title: str
    alt: str
    png: bytes


@dataclass(frozen=True)
class ListeningFile:
    """One test item with the audio and scores of every system.

    name, group: as in per_file.csv; both together are unique. snr_db: of the input; NaN if unknown.
    waves: system to wave ``[N]``, float32, all of one length and at the level they were scored at; "noisy" and "clean"
    first, then systems in the order of the tables.
    scores: system to metric to value (NaN where it failed); "clean" has none.
    """

    name: str
    group: str
    snr_db: float
    waves: dict[str, np.ndarray]
    scores: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Report:
    """A whole report.

    title: of the page. notes: what was compared and what it does not show. warnings: what is wrong with the data.
    tables, figures: in the order of the page. listening: files, as scored. sample_rate_hz: of the audio.
    metrics: names in the order of columns. facts: label to text: commands, versions, settings.
    """

    title: str
    notes: list[str]
    warnings: list[str]
    tables: list[Table]
    figures: list[Figure]
    listening: list[ListeningFile]
    sample_rate_hz: int
    metrics: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)
