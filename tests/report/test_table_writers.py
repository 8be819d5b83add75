"""Promises of the writers of tables: all of them say the same, and nothing in a cell breaks one of them."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from kdse.machine.spreadsheet import quoted, unquoted
from kdse.report.tables.table import Cell, Column, Table
from kdse.report.tables.writers import markdown_text, to_csv, to_latex, to_markdown, to_rich

NASTY = r"a_b & 50 % #1 {x} ~^ \cmd | <i> $5 _it_ *it* `c` ± × 'q' \"d\""


def table(*names: str) -> Table:
    columns = (Column("system", "system"), Column("si_sdr", "SI-SDR dB", "higher"), Column("steps", "steps"))
    rows = tuple(
        (
            Cell(name, name),
            Cell(f"{index}.25 (+1.00) [-0.5, 2.0]" + (" ≈" if index % 2 else ""), index + 0.25, best=index % 2 == 0,
                 noise=index % 2 == 1, low=-0.5, high=2.0),
            Cell("" if index else "1,000", None if index else 1000),
        )
        for index, name in enumerate(names)
    )  # fmt: skip
    return Table("scores", "Scores", "How to read: p < 0.05.", columns, rows, tuple(i // 2 for i in range(len(names))))


def test_markdown_is_aligned_and_holds_every_cell_once() -> None:
    made = table("noisy", "two_step", "a much longer name", "x")
    parts = to_markdown(made).split("\n\n")
    assert parts[0] == "**Scores**" and parts[2] == "How to read: p < 0.05.\n"
    lines = parts[1].splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 2 + 4
    assert re.fullmatch(r"\| -+ \| -+: \| -+: \|", lines[1])  # numbers to the right
    for line, row in zip(lines[2:], made.rows, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        assert cells == [f"**{c.text}**" if c.best else c.text for c in row]


def test_special_characters_do_not_break_markdown() -> None:
    line = to_markdown(table(NASTY, "line\nbreak")).splitlines()[4]
    assert len(re.findall(r"(?<!\\)\|", line)) == 4  # the table's own
    assert r"\*it\*" in line and r"\_it\_" in line and "a_b" in line and "&lt;i>" in line
    assert "line break" in to_markdown(table("line\nbreak"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[x](http://evil)", r"[x]\(http:\//evil)"), ("![x][1]", r"![x]\[1]"), ("[x]: http://a", r"[x]\: http:\//a"),
        ("www.evil.org", r"www\.evil.org"), ("<script>", "&lt;script>"), ("&lt;b&gt;", r"\&lt;b\&gt;"),
        ("$x_{$", r"\$x\_{\$"), ("# x", r"\# x"), ("1. x", r"1\. x"), ("~~x~~", r"\~~x\~~"),
        ("9.31 (+1.00) [-0.5, 2.0]", "9.31 (+1.00) [-0.5, 2.0]"), ("a & b, p < 0.05, -5", "a & b, p < 0.05, -5"),
    ],
)  # fmt: skip
def test_links_html_and_formulas_in_a_name_are_text_in_markdown_and_numbers_stay_legible(text, shown) -> None:
    assert markdown_text(text) == shown and f"| {shown} " in to_markdown(table(text))


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "\rx", "'=x", "''@x", "＝1"])
def test_text_that_a_spreadsheet_would_run_is_quoted_and_read_back_and_numbers_stay_numbers(text) -> None:
    (record,) = csv.DictReader(io.StringIO(to_csv(table(text)), newline=""))
    assert record["system"] == f"'{text}" and record["si_sdr_low"] == "-0.5" and unquoted(record["system"]) == text
    for kept in ("x", "'x", "-5", "+1e-3", "-5..15 dB", "a=b", ""):
        assert quoted(kept) == kept == unquoted(kept)
    assert quoted(-5.0) == -5.0 and quoted(None) is None


def test_csv_holds_raw_numbers_with_bounds_and_marks() -> None:
    records = list(csv.DictReader(io.StringIO(to_csv(table(NASTY, "two_step")))))
    assert list(records[0]) == ["system", "si_sdr", "si_sdr_low", "si_sdr_high", "si_sdr_mark", "steps"]
    assert list(records[0].values()) == [NASTY, "0.25", "-0.5", "2.0", "best", "1000"]
    assert list(records[1].values()) == ["two_step", "1.25", "-0.5", "2.0", "inside noise", ""]


@pytest.mark.parametrize("width", [40, 60, 200])
def test_the_terminal_gets_every_number_whole_at_any_width(width: int) -> None:
    made = table("noisy", "two_step", "x")
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_rich(made))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width and "…" not in text
    for name in ("noisy", "two_step", "1,000", "(+1.00)", "0.25", "2.0]≈"):
        assert name in text


@pytest.mark.parametrize("width", [50, 80, 140])
def test_columns_that_do_not_fit_the_terminal_go_below_with_their_names_and_no_number_is_broken(width: int) -> None:
    metrics = [Column(f"m{index}", f"metric {index}", "higher") for index in range(8)]
    rows = tuple(
        (Cell(name, name), *(Cell(f"{i}.25 (+{j}.75) [-0.51, 2.01] ≈", 0.0, noise=True) for j in range(8)))
        for i, name in enumerate(("noisy", "two_step"))
    )
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_rich(Table("t", "Title", "A caption.", (Column("system", "system"), *metrics), rows, (0, 0))))
    lines = console.export_text().splitlines()
    words = " ".join(lines).replace("│", " ").split()
    parts = sum("┏" in line for line in lines)
    assert parts == words.count("two_step") == (1 if width == 140 else parts) and max(map(len, lines)) <= width
    assert (parts > 1) == (width < 140)
    for j in range(8):
        assert words.count(f"(+{j}.75)") == 2
    assert words.count("[-0.51,2.01]≈") == 16 and "A caption." in lines[-1] and words.count("Title") == 1


def test_names_in_brackets_are_no_markup_of_the_terminal() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(to_rich(table("[red]student[/red]")))
    assert "[red]student[/red]" in console.export_text()


def test_latex_is_balanced_and_escaped() -> None:
    text = to_latex(table("noisy", NASTY, "[first", "two_step"))
    assert [text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1 for name in ("table", "tabular")]
    bare = re.sub(r"\\[\\{}]", "", text)
    assert bare.count("{") == bare.count("}") and text.count(r"\midrule") == 2
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line and line != r"\midrule"]
    assert len(rows) == 4 and all(len(re.findall(r"(?<!\\)&", row)) == 2 and row.endswith(r" \\") for row in rows)
    assert rows[0] == r"noisy & \textbf{0.25 (+1.00) [$-$0.5, 2.0]} & 1,000 \\"
    assert rows[1].endswith(r"[$-$0.5, 2.0]$^{\approx}$ &  \\") and r"a\_b \& 50 \% \#1 \{x\}" in rows[1]
    assert rows[2].startswith("{}[first") and "≈" not in text
    without_math = re.sub(r"(?<!\\)\$[^$]*\$", "", text)
    assert not re.search(r"(?<!\\)[$#%]", without_math.replace(r"\begin{tabular}", ""))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    body = to_latex(table("noisy", NASTY, "[first", "two_step"))
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{body}\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(document)
    run = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True
    )
    assert run.returncode == 0, run.stdout[-2000:]


def test_an_empty_table_can_be_written() -> None:
    made = Table("t", "", "", (Column("a", "a"),), ())
    assert to_markdown(made).splitlines()[0] == "| a   |" and to_csv(made) == "a\n" and r"\toprule" in to_latex(made)
    Console(file=io.StringIO()).print(to_rich(made))
