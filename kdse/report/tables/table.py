"""`Table`: one model for every writer (Markdown, CSV, LaTeX, terminal, HTML, W&B), and the number formats of cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kdse.metrics.registry import METRICS
from kdse.metrics.table import plain
from kdse.metrics.uncertainty import Difference, Interval, OverSeeds

#: Follows a number that is not clearly different from what it is compared with.
MARK = "≈"


@dataclass(frozen=True)
class Column:
    """A column.

    key: name in files (``si_sdr_improvement``). title: for people (``SI-SDR dB``).
    better: "higher", "lower", or "" where neither is better (names, counts).
    """

    key: str
    title: str
    better: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell.

    text: for people, complete with unit, interval and mark. value: the number or word behind it in the metric's raw
    unit, for sorting and files; None where there is none. low, high: its 95 % interval. deviation: over seeds.
    best: the best of its column within its block. noise: not clearly different from the best of its block, or, in a
    table of differences, from zero; its text ends in `MARK`.
    """

    text: str
    value: float | int | str | None = None
    best: bool = False
    noise: bool = False
    low: float | None = None
    high: float | None = None
    deviation: float | None = None

    @classmethod
    def of(cls, value: str | int) -> Cell:
        """A name or a small whole number."""
        return cls(str(value), value)

    @classmethod
    def of_number(cls, value: float | None, form: str) -> Cell:
        """A number in a format; None is an empty cell."""
        return cls("" if value is None else format(value, form), value)

    @classmethod
    def of_mean(
        cls, mean: Interval | Difference | OverSeeds, *parts: str, best: bool = False, noise: bool = False
    ) -> Cell:
        """A mean; its text is the parts that say something, and the mark. NaN is shown as missing."""
        if math.isnan(mean.mean):
            return cls("n/a")
        text = " ".join(part for part in (*parts, MARK if noise else "") if part)
        about = {name: plain(getattr(mean, name, math.nan)) for name in ("low", "high", "deviation")}
        return cls(text, plain(mean.mean), best, noise, **about)

    @property
    def mark(self) -> str:
        """The mark in words, for files."""
        return "best" if self.best else "inside noise" if self.noise else ""


Rows = Sequence[tuple[Cell, ...]]


@dataclass(frozen=True)
class Table:
    """A table.

    key: name for files. title: one line. caption: what brackets and marks mean. columns: in order. rows: one cell a
    column. blocks: ascending block number of every row; rows of one block (a test set at one SNR) are compared with
    each other.

    Raises:
        ValueError: naming the table, if rows do not fit columns or blocks.
    """

    key: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.key}: a row has {len(row)} cells for {len(self.columns)} columns")
        if self.blocks and len(self.blocks) != len(self.rows):
            raise ValueError(f"table {self.key}: blocks has {len(self.blocks)} entries for {len(self.rows)} rows")

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers only, and is aligned to the right."""
        values = [row[column].value for row in self.rows]
        return not any(isinstance(value, str) for value in values) and any(value is not None for value in values)

    def row_blocks(self) -> list[Rows]:
        """The rows of each block."""
        pairs = zip(self.blocks or (0,) * len(self.rows), self.rows, strict=True)
        return [[row for _, row in block] for _, block in itertools.groupby(pairs, key=lambda pair: pair[0])]

    def without_empty(self, *keys: str) -> Table:
        """The table without those of the named columns that hold no value."""
        cells = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        filled = [any(cell.value not in (None, "") for cell in column) for column in cells]
        kept = [full or column.key not in keys for full, column in zip(filled, self.columns, strict=True)]
        rows = tuple(tuple(itertools.compress(row, kept)) for row in self.rows)
        return replace(self, columns=tuple(itertools.compress(self.columns, kept)), rows=rows)


class Shown(NamedTuple):
    """How a metric is shown: raw value x factor. A metric that kdse does not have is shown as it is."""

    title: str
    factor: float = 1
    decimals: int = 3
    higher_is_better: bool = True

    def number(self, value: float, sign: bool = False, fewer: int = 0) -> str:
        """A raw value, with ``fewer`` decimals than usual (but one at least)."""
        decimals = max(min(1, self.decimals), self.decimals - fewer)
        # adding zero turns the -0.00 of a small negative number into 0.00
        return f"{round(value * self.factor, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"

    def interval(self, of: Interval | Difference, sign: bool = False, fewer: int = 0) -> str:
        """``[9.12, 9.81]``; empty without bounds."""
        return (
            "" if math.isnan(of.low) else f"[{self.number(of.low, sign, fewer)}, {self.number(of.high, sign, fewer)}]"
        )

    def gain(self, value: float, unclear: bool) -> str:
        """``(+1.25)``: an improvement over noisy, marked if it is not clear; empty for NaN."""
        return "" if math.isnan(value) else f"({self.number(value, sign=True)}{MARK if unclear else ''})"

    @property
    def axis_title(self) -> str:
        """The title beside an axis, which says so where lower is better."""
        return self.title if self.higher_is_better else f"{self.title} (lower is better)"


def shown(metric: str) -> Shown:
    """How a metric is shown."""
    known = METRICS.get(metric)
    return Shown(known.title, known.factor, known.decimals, known.higher_is_better) if known else Shown(metric)


def metric_column(metric: str) -> Column:
    """A metric's column."""
    look = shown(metric)
    return Column(metric, look.title, "higher" if look.higher_is_better else "lower")


def variants(metrics: Sequence[str]) -> str:
    """One sentence that says exactly which variant of every metric is shown."""
    known = [f"{METRICS[metric].title}: {METRICS[metric].variant}" for metric in metrics if metric in METRICS]
    return f" {'; '.join(known)}." if known else ""
