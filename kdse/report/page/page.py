"""The report as one HTML file that needs no network: sortable tables, figures, and a page to listen to the systems."""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import struct
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from kdse.machine.files import write_text
from kdse.report.contents import Figure, Report
from kdse.report.page import spectrogram
from kdse.report.page.listening import listening_data
from kdse.report.tables.table import MARK, Cell, Rows, Table

#: Scripts in the order they run; each is one idea.
SCRIPTS = ("tables.js", "player.js", "files.js", "spectrograms.js", "listening.js")


def write_page(report: Report, path: str | Path) -> Path:
    """Writes the report to one HTML file; returns its path. Nobody sees half of it, and it asks no server for anything.

    Sound is FLAC (16 bit, as many samples as the waves), all signals of a file with one gain; a signal that is empty or
    holds NaN or infinite samples is named on the page and left out. Ten seconds of one system at 16 kHz are 0.4 MB.

    Raises:
        ValueError: naming the file whose waves differ in length, the figure that is no PNG, or the page not writable.
    """
    style = _asset("style.css")
    script = "(() => {\n'use strict';\n" + "\n".join(map(_asset, SCRIPTS)) + "})();\n"
    # this style, this script, images in the page, nothing from anywhere else
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "media-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    text = _render(
        "page.html",
        report=report,
        policy=policy,
        style=style,
        script=script,
        data=listening_data(report.listening, report.sample_rate_hz, report.metrics),
        colour_bar=spectrogram.colour_bar(),
        table_html=table_html,
        data_uri=_data_uri,
        png_size=_png_size,
    )
    return write_text(path, text)


def table_html(table: Table, number: int) -> str:
    """A sortable table: a body a block of rows; rows are sorted within their block, blocks stay where they are.

    Leading columns that say the same in every row of a block (test set, input SNR) become the heading of the block.
    How to read the table stands below it, and what its marks mean where the caption does not say so.
    """
    blocks = table.row_blocks()
    lifted = _lifted_columns(table, blocks)
    shown = range(lifted, len(table.columns))
    headings = []
    for block in blocks if lifted else ():
        names = zip(table.columns, block[0][:lifted], strict=False)
        headings.append(", ".join(f"{column.title} {cell.text}".strip() for column, cell in names if cell.text))
    return _render(
        "table.html",
        table=table,
        number=number,
        blocks=blocks,
        headings=headings,
        lifted=lifted,
        numeric=[table.numeric(index) for index in shown],
        marked=[any(_is_marked(row[index]) for row in table.rows) for index in shown],
        has_best=any(cell.best for row in table.rows for cell in row),
        is_marked=_is_marked,
        parts=_parts,
        number_of=_number,
    )


def _lifted_columns(table: Table, blocks: list[Rows]) -> int:
    """How many leading columns name the block and not the row."""
    if not table.blocks or all(len(block) == 1 for block in blocks):
        return 0
    for index, column in enumerate(table.columns[:-1]):
        if column.better or any(len({row[index].text for row in block}) > 1 for block in blocks):
            return index
    return len(table.columns) - 1


def _is_marked(cell: Cell) -> bool:
    return cell.noise or cell.text.endswith(MARK)


def _parts(cell: Cell, is_number: bool) -> tuple[str, str]:
    """The number of a cell and what follows it, without the mark."""
    text = cell.text.removesuffix(MARK).rstrip()
    main, _, rest = text.partition(" ") if is_number else (text, "", "")
    return main, rest


def _number(cell: Cell) -> str:
    """The number behind a cell as JavaScript reads it; empty without one."""
    if cell.value is None or math.isnan(float(cell.value)):
        return ""
    return repr(float(cell.value)).replace("inf", "Infinity")


def _png_size(figure: Figure) -> tuple[int, int]:
    if not figure.png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError(f"figure {figure.key}: not a PNG; write it with savefig(..., format='png')")
    width, height = struct.unpack(">II", figure.png[16:24])
    return width, height


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def _templates() -> Environment:
    loader = PackageLoader("kdse.report.page", "assets")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(values)


def _asset(name: str) -> str:
    return (resources.files("kdse.report.page") / "assets" / name).read_text(encoding="utf-8")
