"""CSV files that spreadsheets open without running anything: text that they would take for a formula is quoted."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

#: A cell that a spreadsheet runs, and one that `unquoted` would change. (OWASP, "CSV injection".)
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def to_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV: None is an empty cell, numbers stay numbers, text that begins as a formula has a ``'`` before."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([quoted(value) for value in row] for row in rows)
    return text.getvalue()


def quoted(value: Any) -> Any:
    """The value of a cell for a file; text that is a number is no formula."""
    if not isinstance(value, str) or not FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def unquoted(text: str) -> str:
    """The text that `quoted` made this cell of."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
