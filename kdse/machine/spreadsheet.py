"""CSV files that spreadsheets open without running anything: text that they would take for a formula is quoted."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any

#: A cell that a spreadsheet runs, and one that `unquoted` would change. (OWASP, "CSV injection": full width counts.)
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
#: Numbers, and ranges of SNRs such as "-5..15 dB": no spreadsheet finds a function or a reference in them.
NUMBERS = re.compile(r"[-+]?[\d.]+([eE][-+]?\d+)?(\.\.-?[\d.]+)?( dB)?|[-+]?(inf|nan)")


def to_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Rows as CSV: None is an empty cell, numbers stay numbers, text that begins as a formula has a ``'`` before."""
    lines = []
    for row in rows:
        line = io.StringIO()
        csv.writer(line, lineterminator="\r\n").writerow(map(quoted, row))  # (what ends lines is quoted: both of these)
        lines.append(line.getvalue().removesuffix("\r\n"))
    return "\n".join([*lines, ""])


def quoted(value: Any) -> Any:
    """The value of a cell for a file; text of `NUMBERS` is no formula."""
    runs = isinstance(value, str) and FORMULA.match(value) and not NUMBERS.fullmatch(value)
    return f"'{value}" if runs else value


def unquoted(text: str) -> str:
    """The text that `quoted` made this cell of."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text
