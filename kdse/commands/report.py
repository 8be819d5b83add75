"""`kdse report`: tables, figures and a page to listen to, from finished runs."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from kdse.commands.evaluate import SCORES
from kdse.commands.model import TRUST_CODE, labelled, name_and_path
from kdse.commands.parser import Parser, at_least
from kdse.errors import UserError
from kdse.evaluation.options import add_item_options, add_scoring_options, given_flags
from kdse.machine.files import write_bytes, write_text
from kdse.pretrained import CHECKPOINTS, MODEL, Named
from kdse.report.collect import find_runs, read_scores, seed_groups, without_checkpoint
from kdse.report.contents import Report
from kdse.run.folder import CONFIG, last_checkpoint, teacher_of
from kdse.sweeps.sequential_runs import kdse

#: In a run folder: where its report goes if no other folder is named.
REPORT = "report"
#: In OUT: the tables and figures that a report wrote.
FILES = "report.json"
#: Its entries: files that a report may have written, and may remove.
OURS = re.compile(r"(tables|figures)/[A-Za-z0-9.+_-]+\.(md|csv|tex|png)")

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
  kdse report runs/demo
  kdse report cruse-62k runs/student runs/two_step --paired NOISY CLEAN --out runs/report
  kdse report runs/two_step --scores mix=runs/mix --scores pairs=runs/pairs --seeds kd=two_step,two_step_1 --out runs/r
"""


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    folders = [text for text in arguments.runs if Path(name_and_path(text)[1]).is_dir()]
    models = labelled([text for text in arguments.runs if text not in folders], init=[])
    _check(arguments, folders, models)
    runs = find_runs(folders)
    seed_groups(runs, arguments.seeds)  # a mistake there is found before hours of scoring
    out = _out(arguments.out, folders)
    scores = [(name, Path(path)) for name, path in map(name_and_path, arguments.scores)]
    if not (scores or models or _how_to_score(arguments)):
        beside = dict.fromkeys(Path(name_and_path(text)[1], SCORES) for text in folders)
        scores = [("", folder) for folder in beside if (folder / "summary.json").is_file()]
    if scores:
        _say(f"scores of {', '.join(str(folder) for _, folder in scores)}")
    else:
        code = kdse(_evaluation(runs, models, arguments, out / SCORES), quiet=True)
        if code:
            raise UserError(f"`kdse evaluate` ended with exit code {code}, so there is nothing to report")
        scores = [("", out / SCORES)]
    sets = read_scores(scores)

    from kdse.report.build import Options, build_report

    options = Options(
        title=arguments.title or (out.resolve().parent.name if out.name == REPORT else out.resolve().name),
        reference=arguments.reference or "",
        seeds=arguments.seeds,
        listen=arguments.listen,
        files=arguments.files,
        listen_by=arguments.listen_by or "",
        similarity_items=arguments.similarity_items,
        trust_code=arguments.trust_code,
        command=shlex.join(["kdse", "report", *argv]),
    )
    report = build_report(runs, sets, options, say=_say)
    early = [f"{path}: has no checkpoint yet and is left out" for path in without_checkpoint(folders)]
    report = dataclasses.replace(report, warnings=[*early, *report.warnings])
    written = write_report(report, out)
    for warning in report.warnings:
        print(f"WARNING: {warning}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({"out": str(out), "written": written, "warnings": list(report.warnings)}, indent=2))
    else:
        print(f"written to {out}: {', '.join(written)}")
    if arguments.wandb != "off":
        from kdse.report.wandb_log import log_report

        logged = log_report(report, out, arguments.wandb, arguments.wandb_project, options.title)
        print(logged, file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _say(text: str) -> None:
    print(f"kdse report: {text}", file=sys.stderr)


def _check(arguments: argparse.Namespace, folders: list[str], models: Mapping[str, Named]) -> None:
    if not folders:
        raise UserError(f"RUN is missing: {arguments.runs[0]} is no run folder, but a model to score beside runs")
    if arguments.wandb not in ("off", "online", "offline"):
        raise UserError(f"--wandb {arguments.wandb}: use off, online or offline")
    flags = [*models, *_how_to_score(arguments)]
    if arguments.scores and (flags or arguments.overwrite):
        flag = [*flags, "--overwrite"][0]
        raise UserError(f"{flag}: says how to score, but --scores are taken as they are; leave one out")
    if flags and arguments.listen_by and arguments.listen_by not in arguments.metrics:
        raise UserError(f"--listen-by {arguments.listen_by}: is not among --metrics")


def _how_to_score(arguments: argparse.Namespace) -> list[str]:
    """The flags given that say what is scored and how."""
    return [flag for flag in given_flags(arguments) if flag.startswith("--")]


def _out(given: Path | None, folders: list[str]) -> Path:
    """The folder of --out, made if needed; by default that in the only RUN."""
    if given is None and len(folders) > 1:
        raise UserError("--out: give a folder for the report (RUN/report is the default of a single RUN)")
    out = given or Path(name_and_path(folders[0])[1], REPORT)
    if out.resolve().name == CHECKPOINTS:
        raise UserError(f"--out {out}: holds a run's checkpoints; give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror})") from None
    check_folders(out)
    if not os.access(out, os.W_OK):
        raise UserError(f"--out {out}: may not be written to")
    return out


def check_folders(out: Path) -> None:
    """Refuses a folder in which those for tables or figures are links: the report would be written elsewhere."""
    for folder in (out / "tables", out / "figures"):
        if folder.is_symlink():
            raise UserError(f"--out {out}: {folder} is a link to another folder; remove the link")


def write_report(report: Report, out: Path) -> list[str]:
    """Writes a report's page, Markdown, tables and figures; what there is, for people.

    Tables and figures of an earlier report in the folder, and nothing else, are removed.

    Raises:
        UserError: if a folder for them is a link, to where nothing is written.
    """
    from kdse.report.page.page import write_page
    from kdse.report.tables.writers import to_csv, to_latex, to_markdown

    check_folders(out)
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
    with contextlib.suppress(OSError, ValueError, TypeError):  # (no earlier report, or a damaged list)
        for name in json.loads((out / FILES).read_text(encoding="utf-8")):
            if name not in written and OURS.fullmatch(name):
                (out / name).unlink(missing_ok=True)
    write_text(out / FILES, json.dumps(written, indent=1) + "\n")
    return ["report.html", "report.md", "tables/", *(["figures/"] if report.figures else [])]


def _markdown(report: Report) -> str:
    from kdse.report.tables.writers import markdown_text as shown
    from kdse.report.tables.writers import to_markdown

    parts = [f"# {shown(report.title)}", *(f"**WARNING: {shown(text)}**" for text in report.warnings)]
    parts += map(shown, report.notes)
    for table in report.tables:
        parts += [f"## {shown(table.title)}", to_markdown(dataclasses.replace(table, title="")).strip()]
    for figure in report.figures:
        parts += [f"## {shown(figure.title)}", f"![{shown(figure.alt)}](figures/{figure.key}.png)"]
    facts = "\n".join(f"- {shown(name)}: {shown(text)}" for name, text in report.facts.items())
    return "\n\n".join([*parts, "## How it was made", facts]) + "\n"


def _evaluation(
    runs: Mapping[str, Path], models: Mapping[str, Named], arguments: argparse.Namespace, out: Path
) -> list[str]:
    """Arguments of `kdse` that score all runs, their teachers and the other models."""
    systems = {label: str(last_checkpoint(run)) for label, run in runs.items()}
    systems |= {label: str(named.path or named.class_path) for label, named in models.items()}
    known = {Path(path).resolve() for path in systems.values()}
    teachers: dict[str, str] = {}
    for run in runs.values():
        teacher = teacher_of(run)
        if teacher is not None and teacher.is_file() and teacher.resolve() not in known:
            known.add(teacher.resolve())
            teachers["teacher" if not teachers else f"teacher{len(teachers) + 1}"] = str(teacher)
    flags = given_flags(arguments)
    if not any(getattr(arguments, source) for source in ("paired", "corpus", "synthetic", "data_config")):
        data = next((run for run in runs.values() if teacher_of(run) is not None), next(iter(runs.values())))
        flags = ["--data-config", str(data / CONFIG), *flags]
    flags += [flag for flag in ("--overwrite", "--trust-code") if getattr(arguments, flag[2:].replace("-", "_"))]
    named = [f"{label}={where}" for label, where in {**teachers, **systems}.items()]
    return ["evaluate", *named, *flags, "--out", str(out)]


def _parser() -> argparse.ArgumentParser:
    parser = Parser("kdse report", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add(
        "runs", nargs="+", metavar="[LABEL=]RUN",
        help=f"run folder, or a folder of run folders; any other MODEL is scored beside the runs: {MODEL}",
    )  # fmt: skip
    add("--out", type=Path, metavar="OUT", help="folder for the report (default: RUN/report, for a single RUN)")
    add("--scores", action="append", default=[], metavar="[NAME=]DIR", help="what kdse evaluate wrote; repeatable")
    parser.add_overwrite("scores of other items or metrics in OUT/scores")
    add("--title", help="of the page (default: name of the folder)")
    add("--reference", metavar="LABEL", help="the others are compared with it (default: a run without teacher)")
    add(
        "--seeds", action="append", default=[], metavar="NAME=LABEL,LABEL",
        help="runs that differ in their seed only; those of equal configs are found",
    )  # fmt: skip
    count = at_least(0)
    add("--listen", type=count, default=12, metavar="N", help="files on the listening page (default: %(default)s)")
    add("--files", nargs="+", default=[], metavar="NAME", help="these files, instead of a choice")
    add("--listen-by", metavar="METRIC", help="metric that says which files are the worst (default: the first)")
    add(
        "--similarity-items", type=count, default=16, metavar="N",
        help="test items on which blocks of teacher and student are compared; 0 leaves it out (default: %(default)s)",
    )  # fmt: skip
    add("--wandb", default="off", help="also log it to Weights & Biases: off, online or offline (default: off)")
    add("--wandb-project", default="kdse", help="(default: kdse)")
    add_item_options(parser)
    add_scoring_options(parser)
    parser.add_argument("--trust-code", action="store_true", help=TRUST_CODE)
    parser.add_json()
    return parser
