"""A `Table` as Markdown, CSV, LaTeX or on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kdse.machine import spreadsheet
from kdse.report.tables.table import MARK, Cell, Table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

# --- Markdown ---

#: What would be read as Markdown, HTML, a link or a formula. Underscores within words are safe, and names are full of
#: them; brackets too, unless they could be those of a link.
MARKDOWN = re.compile(
    r"[\\|*`$]|<(?=[\w/!?])(?!\d)|(?<!\w)_|_(?!\w)|~(?=~)|&(?=#|\w+;)"
    r"|(?<=\])[(\[:]|(?<=:)//|(?<=\bwww)\.|^[#>+-](?= )|(?<=^\d)\.(?= )"
)


def to_markdown(table: Table) -> str:
    """Title, table and caption; columns aligned for readers of the plain text, best values in bold."""
    rows = [[markdown_text(column.title) for column in table.columns]]
    rows += [
        [f"**{markdown_text(c.text)}**" if c.best and c.text else markdown_text(c.text) for c in r] for r in table.rows
    ]
    columns = []
    for index, (title, *texts) in enumerate(zip(*rows, strict=True)):
        width = max(3, *(len(text) for text in (title, *texts)))
        right = table.numeric(index)
        rule = "-" * (width - 1) + (":" if right else "-")
        columns.append([text.rjust(width) if right else text.ljust(width) for text in (title, rule, *texts)])
    text = "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns, strict=True))
    parts = [f"**{markdown_text(table.title)}**" if table.title else "", text, markdown_text(table.caption)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_text(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return MARKDOWN.sub(lambda found: "&lt;" if found[0] == "<" else "\\" + found[0], " ".join(text.split()))


# --- CSV ---


def to_csv(table: Table) -> str:
    """The `fields` of a table, one line a row."""
    columns = fields(table)
    return spreadsheet.to_csv([columns, *zip(*columns.values(), strict=True)])


def fields(table: Table) -> dict[str, list[Any]]:
    """Raw values by column key, for machines.

    A column with intervals is followed by ``_low`` and ``_high``, one with deviations by ``_deviation``, one with marks
    by ``_mark``: "best", "inside noise" or nothing.
    """
    found: dict[str, list[Any]] = {}
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        found[column.key] = [cell.value for cell in cells]
        for name in ("low", "high", "deviation", "mark"):
            values = [getattr(cell, name) for cell in cells]
            if any(value not in (None, "") for value in values):
                found[f"{column.key}_{name}"] = values
    return found


# --- LaTeX ---

#: Characters in LaTeX; NUL stands for a minus.
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "×": r"$\times$", "µ": r"$\mu$",
    "\0": "$-$", MARK: r"$\approx$",
})  # fmt: skip
#: A minus, which a hyphen before a number means. Not the hyphen of "two-step" or "2-3".
MINUS = re.compile(r"(?<![\w+-])-(?=\d)")


def to_latex(table: Table) -> str:
    """A ``table`` environment for a paper: booktabs rules, best values in bold, marks as superscripts.

    Needs ``\\usepackage{booktabs}`` and nothing else.
    """
    align = "".join("r" if table.numeric(i) else "l" for i in range(len(table.columns)))
    blocks = ["\n".join(_latex_row(map(_latex_cell, row)) for row in block) for block in table.row_blocks()]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(f'{table.title}. {table.caption}' if table.title else table.caption)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9]+', '-', table.key)}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _latex_row(_latex(column.title) for column in table.columns),
        r"\midrule",
        *(["\n\\midrule\n".join(blocks)] if blocks else []),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    row = " & ".join(cells) + r" \\"
    # a line that starts with one of these would be taken for an argument of the \\ before it
    return "{}" + row if row.startswith(("[", "*")) else row


def _latex_cell(cell: Cell) -> str:
    text = re.sub(r" ?\$\\approx\$", lambda _: r"$^{\approx}$", _latex(cell.text))
    return rf"\textbf{{{text}}}" if cell.best and text else text


def _latex(text: str) -> str:
    return MINUS.sub("\0", " ".join(text.split())).translate(LATEX)


# --- terminal ---

#: Names up to this length stay on one line.
NAME = 32
#: What a column's frame adds to its width.
FRAME = 3


class TerminalTable:
    """A table for `rich.console.Console.print`, as wide as the terminal at most.

    Cells that are too wide break between their parts, not within a number. What still does not fit goes into further
    tables below, each with the columns that name its rows.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.texts = [[_unbroken(row[i].text) for row in table.rows] for i in range(len(table.columns))]  # by column

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
            made.add_column(
                Text(self.table.columns[index].title),
                justify="right" if self.table.numeric(index) else "left",
                no_wrap=self._is_name(index),
                overflow="fold",
            )
        for block in self.table.row_blocks():
            for row in block:
                made.add_row(*(Text(_unbroken(row[i].text), style="bold" if row[i].best else "") for i in columns))
            made.add_section()
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
        texts = [self.table.columns[index].title, *self.texts[index]]
        return max(len(word) for text in texts for word in ([text] if self._is_name(index) else text.split() or [""]))

    def _is_name(self, index: int) -> bool:
        return not self.table.numeric(index) and all(len(text) <= NAME for text in self.texts[index])


def _unbroken(text: str) -> str:
    """Without the spaces at which an interval, or the mark after a number, would be broken off."""
    return re.sub(rf"(?<=\d), (?=[-+\d.]+\])| (?={MARK}$)", lambda found: found[0].strip(), text)


to_rich = TerminalTable  # (named as its neighbours)
