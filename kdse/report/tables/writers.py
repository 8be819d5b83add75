"""A `Table` as Markdown or CSV; its neighbours `terminal` and `latex` are for screen and paper."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from kdse.report.tables.table import Table
from kdse.report.tables.terminal import to_rich

__all__ = ["fields", "to_csv", "to_markdown", "to_rich"]

#: What would be read as Markdown or HTML. Underscores within words are safe, and names are full of them.
SPECIAL = re.compile(r"[\\|*`]|<(?=[\w/!?])(?!\d)|(?<!\w)_|_(?!\w)")


def to_markdown(table: Table) -> str:
    """Title, table and caption; columns aligned for readers of the plain text, best values in bold."""
    cells = [[_markdown(column.title) for column in table.columns]]
    cells += [[_bold(_markdown(c.text), c.best, "**") for c in row] for row in table.rows]
    right = [table.numeric(i) for i in range(len(table.columns))]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(table.columns))]
    rule = ["-" * (width - 1) + (":" if is_right else "-") for width, is_right in zip(widths, right, strict=True)]
    lines = ["| " + " | ".join(_aligned(row, widths, right)) + " |" for row in cells]
    text = "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])
    parts = [f"**{_markdown(table.title)}**" if table.title else "", text, _markdown(table.caption)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(table: Table) -> str:
    """The `fields` of a table, one line a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = fields(table)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def fields(table: Table) -> dict[str, list[Any]]:
    """Raw values by column key, for machines.

    A column with intervals is followed by ``_low`` and ``_high``, one with deviations by ``_deviation``, one with marks
    by ``_mark``: "best", "inside noise" or nothing.
    """
    found: dict[str, list[Any]] = {}
    for index, column in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        found[column.key] = [cell.value for cell in cells]
        if any(cell.low is not None for cell in cells):
            found[f"{column.key}_low"] = [cell.low for cell in cells]
            found[f"{column.key}_high"] = [cell.high for cell in cells]
        if any(cell.deviation is not None for cell in cells):
            found[f"{column.key}_deviation"] = [cell.deviation for cell in cells]
        if any(cell.best or cell.noise for cell in cells):
            found[f"{column.key}_mark"] = ["best" if c.best else "inside noise" if c.noise else "" for c in cells]
    return found


def _markdown(text: str) -> str:
    return SPECIAL.sub(lambda found: "&lt;" if found[0] == "<" else "\\" + found[0], " ".join(text.split()))


def _bold(text: str, best: bool, around: str) -> str:
    return f"{around}{text}{around}" if best and text else text


def _aligned(row: list[str], widths: list[int], right: list[bool]) -> list[str]:
    return [c.rjust(w) if is_right else c.ljust(w) for c, w, is_right in zip(row, widths, right, strict=True)]
