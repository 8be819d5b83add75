"""A `Table` on the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdse.report.tables.table import MARK, Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

#: Names up to this length stay on one line.
NAME = 32
#: What a column's frame adds to its width.
FRAME = 3


def to_rich(table: Table) -> TerminalTable:
    """For `rich.console.Console.print`."""
    return TerminalTable(table)


class TerminalTable:
    """A table as wide as the terminal at most: cells that are too wide break between their parts, not within a number.

    What still does not fit goes into further tables below, each with the columns that name its rows.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.texts = [[_unbroken(cell.text) for cell in row] for row in table.rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        for number, columns in enumerate(self._parts(options.max_width)):
            yield self._part(columns, self.table.title if number == 0 else "")
        if self.table.caption:
            yield Text(self.table.caption, style="italic")

    def _part(self, columns: Sequence[int], title: str) -> RichTable:
        from rich.table import Table as RichTable
        from rich.text import Text

        made = RichTable(title=Text(title) if title else None)
        for index in columns:
            right = self.table.numeric(index)
            title_text = Text(self.table.columns[index].title)
            made.add_column(
                title_text, justify="right" if right else "left", no_wrap=self._name(index), overflow="fold"
            )
        for row, texts, ends in zip(self.table.rows, self.texts, self.table.ends_block(), strict=True):
            cells = [Text(texts[index], style="bold" if row[index].best else "") for index in columns]
            made.add_row(*cells, end_section=ends)
        return made

    def _parts(self, width: int) -> list[list[int]]:
        """Columns of each table: as many as fit."""
        every = range(len(self.table.columns))
        first = next((i for i in every if self.table.columns[i].better or self.table.numeric(i)), 0)
        names, parts = list(every[:first]), [list(every[:first])]
        for index in every[first:]:
            needed = 1 + sum(self._narrowest(i) + FRAME for i in [*parts[-1], index])
            if needed > width and len(parts[-1]) > len(names):
                parts.append(list(names))
            parts[-1].append(index)
        return parts

    def _narrowest(self, index: int) -> int:
        """The longest word of a column, or its longest name."""
        texts = [self.table.columns[index].title, *(texts[index] for texts in self.texts)]
        return max(len(part) for text in texts for part in ([text] if self._name(index) else text.split() or [""]))

    def _name(self, index: int) -> bool:
        return not self.table.numeric(index) and all(len(texts[index]) <= NAME for texts in self.texts)


def _unbroken(text: str) -> str:
    """Without the spaces at which an interval, or the mark after a number, would be broken off."""
    return re.sub(rf"(?<=\d), (?=[-+\d.]+\])| (?={MARK}$)", lambda found: found[0].strip(), text)
