"""`kdse teachers`: the public denoisers that kdse knows by name, and which of them are on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdse.commands.parser import Parser
from kdse.errors import UserError
from kdse.pretrained.teachers import FOLDER, TEACHERS, located, scores

DESCRIPTION = """\
List the public denoisers that kdse knows: licence of the weights, sample rate, whether they are causal, parameters,
where their weights come from, whether they are on this machine, and what they score.
"""
EPILOG = f"""\
A name is a MODEL wherever one is taken. kdse comes with none of the weights and downloads none: they are in packages of
the index, or in files that you have, anywhere below the folder of --folder or of the environment variable {FOLDER}.
The licence counts for a student that is trained on the outputs, too: credit what it asks to be credited.

examples:
  kdse teachers
  kdse evaluate gtcrn student.ckpt --paired NOISY CLEAN --out scores
  kdse fit --model kdse.Distiller --model.teacher ul-unas --model.student kdse.models.Cruse \\
    --objectives.output kdse.objectives.OutputDistillation --data kdse.data.Mixtures --data.root CORPUS
"""


def make_parser() -> Parser:
    parser = Parser("kdse teachers", DESCRIPTION, EPILOG)
    parser.add_argument("--folder", metavar="DIR", help=f"folder with weights (default: that of {FOLDER})")
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    if arguments.folder is not None and not Path(arguments.folder).is_dir():
        raise UserError(f"--folder {arguments.folder}: no such folder")
    rows = list_teachers(arguments.folder)
    print(json.dumps(rows, indent=2) if arguments.json else describe(rows))
    return 0


def list_teachers(folder: str | None = None) -> list[dict[str, Any]]:
    """All that is known of each denoiser, as plain data; ``here`` is where its weights are, None if nowhere."""
    rows, measured = [], scores()
    for name, known in TEACHERS.items():
        found = located(name, folder)
        here = None if found is None else found[0]
        rows.append({"name": name, **asdict(known), "here": here, "scores": measured.get(name, [])})
    return rows


def describe(rows: list[dict[str, Any]]) -> str:
    """The list as a table, and how to get what is missing."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("name", box=box.SIMPLE_HEAD)
    for heading in ("licence", "kHz", "causal", "parameters", "scores", "here"):
        table.add_column(heading, justify="right" if heading in ("kHz", "parameters") else "left")
    for row in rows:
        size = "unknown" if row["parameters"] is None else f"{row['parameters']:,}"
        causal = "yes" if row["causal"] else "no"
        measured = "\n".join(map(_score, row["scores"])) or "not measured"
        rate = f"{row['sample_rate_hz'] / 1000:g}"
        table.add_row(row["name"], row["licence"], rate, causal, size, measured, row["here"] or "no")
    console = Console(width=200, force_terminal=False)
    with console.capture() as shown:
        console.print(table)
    lines = [line.rstrip() for line in shown.get().strip("\n").splitlines()]
    missing = [row for row in rows if row["here"] is None]
    return "\n".join([*lines, *(f"{row['name']}: {row['install']} ({row['source']})" for row in missing)])


def _score(row: dict[str, str]) -> str:
    return (
        f"{row['set']}: {row['si_sdr_db']} dB SI-SDR, {row['pesq_wb']} PESQ, {row['stoi']} % STOI, {row['estoi']} % "
        "eSTOI"
    )
