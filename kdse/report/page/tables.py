"""Tables and figures of the report page as HTML."""

from __future__ import annotations

import base64
import itertools
import math
import numbers
import struct
from html import escape

from kdse.errors import UserError
from kdse.report.contents import Figure
from kdse.report.tables.table import Cell, Column, Table

_PNG_START = b"\x89PNG\r\n\x1a\n"


def table_html(table: Table, number: int) -> str:
    """A sortable table: a body a block of rows; rows are sorted within their block, blocks stay where they are.

    Leading columns that say the same in every row of a block (test set, input SNR) become the heading of the block.
    How to read the table stands below it, and what its marks mean where the caption does not say so.

    Raises:
        ValueError: naming the table, if a row has more or fewer cells than there are columns, or blocks do not fit.
    """
    blocks = _blocks(table)
    lifted = _lifted_columns(table, blocks)
    columns = table.columns[lifted:]
    numeric = [_is_numeric(table, index) for index in range(lifted, len(table.columns))]
    marked = [any(_is_marked(row[index]) for row in table.rows) for index in range(lifted, len(table.columns))]
    head = "".join(_header(column, is_number) for column, is_number in zip(columns, numeric, strict=True))
    bodies = "".join(_body(table, block, lifted, numeric, marked) for block in blocks)
    note = _note(table, blocks)
    described = f' aria-describedby="table-{number}-note"' if note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="table-{number}">\n'
        f'<table class="sortable" data-key="{escape(table.key)}"{described}>\n'
        f'<caption><div><h3 id="table-{number}">{escape(table.title)}</h3></div></caption>\n'
        f"<thead><tr>{head}</tr></thead>\n{bodies}</table>\n</div>\n"
        + (f'<p class="legend" id="table-{number}-note">{note}</p>\n' if note else "")
    )


def figure_html(figure: Figure) -> str:
    """A picture with its title, the file inside the page.

    Raises:
        ValueError: naming the figure, if it is not a PNG.
    """
    if figure.png[:8] != _PNG_START:
        raise UserError(f"figure {figure.key}: not a PNG; write it with savefig(..., format='png')")
    width, height = struct.unpack(">II", figure.png[16:24])
    shape = "wide" if width > 2 * height else ""
    return (
        f'<figure class="{shape}" id="figure-{escape(figure.key)}"><h3>{escape(figure.title)}</h3>'
        f'<img src="{data_uri(figure.png)}" alt="{escape(figure.alt)}" width="{width}" height="{height}">'
        f"<figcaption><details><summary>In words</summary><p>{escape(figure.alt)}</p></details></figcaption></figure>\n"
    )


def data_uri(png: bytes) -> str:
    """A PNG as the address of an image."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _blocks(table: Table) -> list[tuple[tuple[Cell, ...], ...]]:
    for row in table.rows:
        if len(row) != len(table.columns):
            raise UserError(f"table {table.key}: a row has {len(row)} cells for {len(table.columns)} columns")
    if not table.blocks:
        return [table.rows]
    if len(table.blocks) != len(table.rows):
        raise UserError(f"table {table.key}: blocks has {len(table.blocks)} entries for {len(table.rows)} rows")
    pairs = zip(table.blocks, table.rows, strict=True)
    return [tuple(row for _, row in group) for _, group in itertools.groupby(pairs, key=lambda pair: pair[0])]


def _lifted_columns(table: Table, blocks: list[tuple[tuple[Cell, ...], ...]]) -> int:
    """How many leading columns name the block and not the row."""
    if not table.blocks or all(len(block) == 1 for block in blocks):
        return 0
    for index, column in enumerate(table.columns[:-1]):
        if column.better or any(len({row[index].text for row in block}) > 1 for block in blocks):
            return index
    return len(table.columns) - 1


def _is_numeric(table: Table, index: int) -> bool:
    values = [row[index].value for row in table.rows if row[index].value is not None]
    return bool(values) and all(isinstance(value, numbers.Real) for value in values)


def _header(column: Column, is_number: bool) -> str:
    hint = {"higher": "higher is better", "lower": "lower is better"}.get(column.better, "")
    arrow = {"higher": "↑", "lower": "↓"}.get(column.better, "")
    better = (
        f'&nbsp;<span class="better" aria-hidden="true">{arrow}</span><span class="unseen">, {hint}</span>'
        if hint
        else ""
    )
    first = "descending" if column.better == "higher" else "ascending"
    title = f' title="{hint}"' if hint else ""
    return (
        f'<th scope="col"{_class(["number"] if is_number else [])}>'
        f'<button type="button" data-first="{first}"{title}><span>{escape(column.title)}{better}</span></button></th>'
    )


def _body(
    table: Table, rows: tuple[tuple[Cell, ...], ...], lifted: int, numeric: list[bool], marked: list[bool]
) -> str:
    lines = ["<tbody>\n"]
    if lifted and rows:
        names = zip(table.columns[:lifted], rows[0][:lifted], strict=True)
        text = ", ".join(f"{column.title} {cell.text}".strip() for column, cell in names if cell.text)
        width = len(table.columns) - lifted
        lines.append(
            f'<tr class="block"><th scope="rowgroup" colspan="{width}"><span>{escape(text)}</span></th></tr>\n'
        )
    for row in rows:
        cells = "".join(map(_cell, row[lifted:], numeric, marked, itertools.chain([True], itertools.repeat(False))))
        lines.append(f"<tr>{cells}</tr>\n")
    return "".join([*lines, "</tbody>\n"])


def _is_marked(cell: Cell) -> bool:
    return cell.noise or cell.text.endswith("≈")


def _cell(cell: Cell, is_number: bool, has_marks: bool, is_row_name: bool) -> str:
    """A cell; in a column of numbers what follows the number is dimmed, and marks have a place so that all align."""
    tag, scope = ("th", ' scope="row"') if is_row_name else ("td", "")
    text = cell.text.removesuffix("≈").rstrip()
    main, _, rest = text.partition(" ") if is_number else (text, "", "")
    content = escape(main) + (f' <span class="rest">{escape(rest)}</span>' if rest else "")
    if cell.best:
        content = f'<strong>{content}</strong><span class="unseen"> (best)</span>'
    if has_marks:
        content += f'<span class="mark">{"≈" if _is_marked(cell) else ""}</span>'
    names = [name for name, on in (("number", is_number), ("best", cell.best)) if on]
    return f"<{tag}{scope}{_class(names)}{_sort_value(cell)}>{content}</{tag}>"


def _sort_value(cell: Cell) -> str:
    if isinstance(cell.value, str):
        return f' data-text="{escape(cell.value)}"'
    value = math.nan if cell.value is None else float(cell.value)
    if math.isnan(value):
        return ""
    return f' data-number="{repr(value).replace("inf", "Infinity")}"'


def _note(table: Table, blocks: list[tuple[tuple[Cell, ...], ...]]) -> str:
    cells = [cell for row in table.rows for cell in row]
    many = len(blocks) > 1
    parts = [escape(table.caption)] if table.caption else []
    if any(cell.best for cell in cells) and "bold" not in table.caption.lower():
        parts.append(f"<strong>Bold</strong>: best {'of its block' if many else 'of its column'}.")
    if any(map(_is_marked, cells)) and "≈" not in table.caption:
        parts.append("≈: within noise, no clear difference from the best (in a table of differences: from zero).")
    if many:
        parts.append("Sorting orders the rows within each block.")
    return " ".join(parts)


def _class(names: list[str]) -> str:
    return f' class="{" ".join(names)}"' if names else ""
