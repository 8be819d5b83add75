"""`Table`: one table for every writer (Markdown, CSV, LaTeX, terminal, HTML, W&B), so that no two of them disagree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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

    text: for people, complete with unit, interval and mark. value: the number or word behind it, for sorting and
    files, in the metric's raw unit; None where there is none. low, high: its 95 % interval, if it has
    one. deviation: over seeds, if there are two or more.
    best: the best of its column (within its block of rows). noise: no clear difference from the best of the block, or,
    in a table of differences, from zero; its text ends in `MARK`.
    """

    text: str
    value: float | int | str | None = None
    best: bool = False
    noise: bool = False
    low: float | None = None
    high: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    key: name for files. title: one line. caption: how to read it: what brackets and marks mean.
    columns: in order. rows: one cell a column. Rows of one block (a test set at one SNR) are compared with each other.
    blocks: the index of every row's block, ascending.
    """

    key: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    blocks: tuple[int, ...] = ()

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers only, and is aligned to the right."""
        values = [row[column].value for row in self.rows]
        return not any(isinstance(value, str) for value in values) and any(value is not None for value in values)

    def ends_block(self) -> Iterator[bool]:
        """For every row: whether the next one belongs to another block."""
        blocks = self.blocks or (0,) * len(self.rows)
        for index in range(len(self.rows)):
            yield index + 1 < len(blocks) and blocks[index] != blocks[index + 1]
