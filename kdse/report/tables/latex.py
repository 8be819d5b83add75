"""A `Table` as LaTeX for a paper; needs ``\\usepackage{booktabs}`` and nothing else."""

from __future__ import annotations

import re

from kdse.report.tables.table import MARK, Cell, Table

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "±": r"$\pm$", "×": r"$\times$", "µ": r"$\mu$",
}  # fmt: skip
#: A minus, which a hyphen before a number means. Not the hyphen of "two-step" or "2-3".
MINUS = re.compile(r"(?<![\w+-])-(?=\d)")


def to_latex(table: Table) -> str:
    """A ``table`` environment: booktabs rules, blocks set apart, best values in bold, marks as superscripts."""
    align = "".join("r" if table.numeric(i) else "l" for i in range(len(table.columns)))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(f'{table.title}. {table.caption}' if table.title else table.caption)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9]+', '-', table.key)}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _row([_escaped(column.title) for column in table.columns]),
        r"\midrule",
    ]
    for row, ends in zip(table.rows, table.ends_block(), strict=True):
        lines.append(_row([_cell(cell) for cell in row]))
        if ends:
            lines.append(r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _row(cells: list[str]) -> str:
    # a line that starts with one of these would be taken for an argument of the \\ before it
    first = "{}" if cells[0].startswith(("[", "*")) else ""
    return first + " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = re.sub(r" ?\$\\approx\$", lambda _: r"$^{\approx}$", _escaped(cell.text))  # a superscript in cells
    return rf"\textbf{{{text}}}" if cell.best and text else text


def _escaped(text: str) -> str:
    text = MINUS.sub("\0", " ".join(text.split()))
    text = "".join(SPECIAL.get(character, character) for character in text).replace("\0", "$-$")
    return text.replace(MARK, r"$\approx$")
