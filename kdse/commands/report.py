"""`kdse report`: tables, figures and a page to listen to, from finished runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
from pathlib import Path

from kdse.commands.parser import Parser
from kdse.errors import UserError
from kdse.evaluation.options import add_item_options, add_scoring_options, given_flags
from kdse.machine.files import write_bytes, write_text
from kdse.report.collect import find_runs, read_scores, seed_groups, without_checkpoint
from kdse.report.contents import Report
from kdse.run.folder import last_checkpoint, teacher_of
from kdse.sweeps.sequential_runs import kdse

SCORES = "scores"
#: In OUT: the tables and figures that a report wrote.
FILES = "report.json"
SOURCES = ("paired", "corpus", "synthetic", "data_config")

DESCRIPTION = """\
Puts finished runs side by side: tables with intervals and marks for differences inside the noise, cost beside quality,
plots, and one HTML page with all of it and with audio to compare by ear. The page needs no network and no server.

A RUN is a run folder of kdse fit, or a folder that holds some. Scores are those of --scores (what `kdse evaluate`
wrote; several test sets are several --scores). Without --scores: those in RUN/scores, if there are any and no option
says how to score; else all runs and their teacher are evaluated first, into OUT/scores, on the test set that the
options name, or on that of the first run's data.
"""
EPILOG = """\
Writes to OUT: report.html, report.md, tables/*.md, *.csv and *.tex, figures/*.png.

Audio is made again from the checkpoints and checked against the scores, by weights and by one metric: what is heard is
what the tables count.

examples:
  kdse report runs/demo --out runs/demo/report
  kdse report runs/student runs/two_step --paired NOISY CLEAN --out runs/report
  kdse report runs/two_step --scores mix=runs/mix --scores pairs=runs/pairs --seeds kd=two_step,two_step_1 --out runs/r
"""


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code.

    Raises:
        ValueError: for a user's mistake.
    """
    arguments = _parser().parse_args(argv)
    _check(arguments)
    runs = find_runs(arguments.runs)
    seed_groups(runs, arguments.seeds)  # a mistake there is found before hours of scoring
    out: Path = arguments.out
    try:
        out.mkdir(parents=True, exist_ok=True)
        writable = os.access(out, os.W_OK)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror})") from None
    if not writable:
        raise UserError(f"--out {out}: may not be written to")
    folders = [_named(text) for text in arguments.scores]
    if not folders and not _how_to_score(arguments):
        folders = _beside(arguments.runs)
    if folders:
        print(f"kdse report: scores of {', '.join(str(folder) for _, folder in folders)}", file=sys.stderr)
    else:
        code = kdse(_evaluation(runs, arguments), quiet=True)
        if code:
            raise UserError(f"`kdse evaluate` ended with exit code {code}, so there is nothing to report")
        folders = [("", out / SCORES)]
    sets = read_scores(folders)

    from kdse.report.build import Options, build_report

    options = Options(
        title=arguments.title or (out.resolve().parent.name if out.name == "report" else out.resolve().name),
        reference=arguments.reference or "",
        seeds=arguments.seeds,
        listen=arguments.listen,
        files=arguments.files,
        listen_by=arguments.listen_by or "",
        similarity_items=arguments.similarity_items,
        trust_code=arguments.trust_code,
        command=shlex.join(["kdse", "report", *argv]),
    )
    report = build_report(runs, sets, options, say=lambda text: print(f"kdse report: {text}", file=sys.stderr))
    early = [f"{path}: has no checkpoint yet and is left out" for path in without_checkpoint(arguments.runs)]
    report = dataclasses.replace(report, warnings=[*early, *report.warnings])
    where = write_report(report, out)
    for warning in report.warnings:
        print(f"WARNING: {warning}", file=sys.stderr)
    print(f"written to {out}: {', '.join(where)}")
    if arguments.wandb != "off":
        from kdse.report.wandb_log import log_report

        print(log_report(report, out, arguments.wandb, arguments.wandb_project, options.title))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.listen < 0 or arguments.similarity_items < 0:
        raise UserError("--listen and --similarity-items: give 0 or more")
    if arguments.wandb not in ("off", "online", "offline"):
        raise UserError(f"--wandb {arguments.wandb}: use off, online or offline")
    flags = _how_to_score(arguments)
    if arguments.scores and (flags or arguments.overwrite):
        raise UserError(
            f"{[*flags, '--overwrite'][0]}: says how to score, but --scores are taken as they are; leave one out"
        )
    if not arguments.scores and arguments.listen_by and flags and arguments.listen_by not in arguments.metrics:
        raise UserError(f"--listen-by {arguments.listen_by}: is not among --metrics")


def _how_to_score(arguments: argparse.Namespace) -> list[str]:
    """The flags given that say what is scored and how."""
    return [flag for flag in given_flags(arguments) if flag.startswith("--") and flag != "--trust-code"]


def write_report(report: Report, out: Path) -> list[str]:
    """Writes a report's page, Markdown, tables and figures; what there is, for people.

    Tables and figures of an earlier report in the folder, and nothing else, are removed.
    """
    from kdse.report.page.page import write_page
    from kdse.report.tables.writers import to_csv, to_latex, to_markdown

    written = []
    for table in report.tables:
        for ending, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
            written.append(f"tables/{table.key}.{ending}")
            write_text(out / written[-1], text)
    for figure in report.figures:
        written.append(f"figures/{figure.key}.png")
        write_bytes(out / written[-1], figure.png)
    write_text(out / "report.md", _markdown(report))
    write_page(report, out / "report.html")
    for name in _earlier(out):
        if name not in written and name.split("/")[0] in ("tables", "figures") and ".." not in name:
            (out / name).unlink(missing_ok=True)
    write_text(out / FILES, json.dumps(written, indent=1) + "\n")
    return ["report.html", "report.md", "tables/", *(["figures/"] if report.figures else [])]


def _earlier(out: Path) -> list[str]:
    """What an earlier report in this folder wrote."""
    try:
        names = json.loads((out / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _markdown(report: Report) -> str:
    from kdse.report.tables.writers import to_markdown

    parts = [f"# {report.title}", *(f"**WARNING: {text}**" for text in report.warnings), *report.notes]
    for table in report.tables:
        parts += [f"## {table.title}", to_markdown(dataclasses.replace(table, title="")).strip()]
    for figure in report.figures:
        alt = figure.alt.replace("[", "(").replace("]", ")").replace("\n", " ")
        parts += [f"## {figure.title}", f"![{alt}](figures/{figure.key}.png)"]
    parts += ["## How it was made", "\n".join(f"- {name}: {text}" for name, text in report.facts.items())]
    return "\n\n".join(parts) + "\n"


def _evaluation(runs: dict[str, Path], arguments: argparse.Namespace) -> list[str]:
    """Arguments of `kdse` that score all runs and their teachers."""
    systems = {label: last_checkpoint(run) for label, run in runs.items()}
    known = {path.resolve() for path in systems.values()}
    teachers: dict[str, Path] = {}
    for run in runs.values():
        teacher = teacher_of(run)
        if teacher is not None and teacher.is_file() and teacher.resolve() not in known:
            known.add(teacher.resolve())
            teachers["teacher" if not teachers else f"teacher{len(teachers) + 1}"] = teacher
    flags = given_flags(arguments)
    if not any(getattr(arguments, source) for source in SOURCES):
        data = next((run for run in runs.values() if teacher_of(run) is not None), next(iter(runs.values())))
        flags = ["--data-config", str(data / "config.yaml"), *flags]
    flags += ["--overwrite"] if arguments.overwrite else []
    labelled = [f"{label}={path}" for label, path in {**teachers, **systems}.items()]
    return ["evaluate", *labelled, *flags, "--out", str(arguments.out / SCORES)]


def _beside(texts: list[str]) -> list[tuple[str, Path]]:
    """Scores that lie in the folders given as RUN."""
    folders = dict.fromkeys(Path(text.partition("=")[2] or text) / SCORES for text in texts)
    return [("", folder) for folder in folders if (folder / "summary.json").is_file()]


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    return ("", Path(text)) if not equals or Path(text).exists() else (name, Path(path))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kdse report", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("runs", nargs="+", metavar="[LABEL=]RUN", help="run folder, or a folder of run folders")
    add("--out", type=Path, required=True, metavar="OUT", help="folder for the report")
    add("--scores", action="append", default=[], metavar="[NAME=]DIR", help="what kdse evaluate wrote; repeatable")
    add("--overwrite", action="store_true", help="replace scores of other items or metrics in OUT/scores")
    add("--title", help="of the page (default: name of the folder)")
    add("--reference", metavar="LABEL", help="the others are compared with it (default: a run without teacher)")
    add(
        "--seeds", action="append", default=[], metavar="NAME=LABEL,LABEL",
        help="runs that differ in their seed only; those of equal configs are found",
    )  # fmt: skip
    add("--listen", type=int, default=12, metavar="N", help="files on the listening page (default: %(default)s)")
    add("--files", nargs="+", default=[], metavar="NAME", help="these files, instead of a choice")
    add("--listen-by", metavar="METRIC", help="metric that says which files are the worst (default: the first)")
    add(
        "--similarity-items", type=int, default=16, metavar="N",
        help="test items on which blocks of teacher and student are compared; 0 leaves it out (default: %(default)s)",
    )  # fmt: skip
    add("--wandb", default="off", help="also log it to Weights & Biases: off, online or offline (default: off)")
    add("--wandb-project", default="kdse", help="(default: kdse)")
    add_item_options(parser)
    add_scoring_options(parser)
    return parser
