"""`kdse compare`: train several configs over one base, one after another, and put them in one table."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

from kdse.commands.model import TRUST_CODE
from kdse.commands.parser import Parser
from kdse.errors import UserError
from kdse.evaluation.options import add_item_options, add_scoring_options, given_flags
from kdse.machine.files import write_text
from kdse.metrics.table import NOISY, Row, read_rows, to_csv
from kdse.pretrained import located
from kdse.report.tables.comparison import (
    add_costs,
    add_differences,
    add_scores,
    comparison_tables,
    describe_run,
    noisy_row,
)
from kdse.report.tables.writers import to_markdown
from kdse.run.folder import CONFIG, last_checkpoint, read_config
from kdse.sweeps.command import check_fit_flag
from kdse.sweeps.conditions import TEACHER, digest, in_configs, in_flags
from kdse.sweeps.sequential_runs import Run, kdse, train

SCORES = "scores"
SOURCES = ("paired", "corpus", "synthetic", "data_config")
METRICS = ["si_sdr", "pesq_wb", "estoi"]
#: What the table calls the states of runs.
SHOWN_STATES = {"new": "not run", "other": "other settings"}
OURS = ("--config", "--run_dir", "--run_root", "--resume", "--overwrite", "--ckpt_path", "--print_config")

DESCRIPTION = """\
Trains every DELTA over the base config, one after another, and scores all of them and the noisy input on the same
held-out items. Each is an ordinary command, shown before it runs:

  kdse fit --config BASE --config DELTA --run_dir OUT/NAME [fit flags]

and each flag written as --name=VALUE that is none of those below goes to all of them. NAME is the file's name without
.yaml, or what DELTA says (NAME=FILE).

Run it again after an interruption: finished runs are kept, the others go on from their last checkpoint. A run that
fails is marked in the table, the others go on, and the exit code is 1. Runs of other configs or flags in OUT are
refused, not replaced.
"""
EPILOG = """\
The test items are the test set of the reference run's data, unless one of --paired, --corpus, --synthetic and
--data-config is given. Scores are means over all of them; OUT/scores has everything that `kdse evaluate` writes. The
best is in bold, and what is not clearly different from it carries the mark ≈. A second table has the differences to
the reference run, with 95 % intervals. Both cover the choice of files, not the training seed: a run has one.

Cost per step is relative to the reference run: the mean time of an optimizer step with waiting for data, without
validation, checkpoints and the first steps of each start, from the runs' timing.csv. It is fair only if all runs had
the same machine to themselves: leave it idle, and do not compare runs that --only trained elsewhere. Training
seconds are the wall time from start to end, validation and repeated work included.

Writes to OUT: a run folder for each NAME, scores/, and comparison.md, comparison.csv and comparison.json.

examples:
  kdse compare --base base.yaml supervised.yaml two_step.yaml --out runs/mine --trainer.max_steps=1000
  kdse compare --base base.yaml supervised.yaml two_step.yaml --out runs/mine --only two_step --dry-run
  kdse compare --base base.yaml a.yaml b.yaml --out runs/mine --paired NOISY CLEAN --metrics si_sdr pesq_wb
"""


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code: 1 if a run or the scoring failed.

    Raises:
        ValueError: for a user's mistake.
    """
    arguments, flags = _parser().parse_known_intermixed_args(argv)
    for flag in flags:
        check_fit_flag(flag, OURS, "kdse compare sets it for every run")
    out: Path = arguments.out
    deltas = _deltas(arguments.deltas, arguments.base)
    runs = {name: _run(name, arguments.base, file, out, flags) for name, file in deltas.items()}
    reference = arguments.reference or next(iter(runs))
    chosen = arguments.only or list(runs)
    for flag, names in (("--reference", [reference]), ("--only", chosen)):
        unknown = [name for name in names if name not in runs]
        if unknown:
            raise UserError(f"{flag} {unknown[0]}: no delta is called so; there are {', '.join(runs)}")
    for name in chosen:  # before hours of training, not in the middle
        runs[name].check_settings()
    if arguments.dry_run:
        return _show(runs, chosen, reference, arguments)

    codes = train((runs[name] for name in chosen), quiet=arguments.json)
    states = {name: "failed" if codes.get(name) else run.state for name, run in runs.items()}
    rows = [describe_run(name, runs[name].folder, SHOWN_STATES.get(state, state)) for name, state in states.items()]
    finished = [name for name, state in states.items() if state == "finished"]
    code = kdse(_evaluation(runs, finished, reference, arguments), quiet=arguments.json) if finished else None
    _report(rows, reference, arguments, code)
    return 1 if any(codes.values()) or code else 0


def _report(rows: list[dict[str, Any]], reference: str, arguments: argparse.Namespace, code: int | None) -> None:
    """Writes and prints the table; ``code`` is the exit code of `kdse evaluate`, None if nothing was to be scored."""
    out: Path = arguments.out
    report: dict[str, Any] | None = None
    scored: list[Row] = []
    problem = f"kdse evaluate ended with exit code {code}" if code else None
    if code == 0:
        report = json.loads((out / SCORES / "summary.json").read_text(encoding="utf-8"))
        scored = read_rows(out / SCORES / "per_file.csv")
    add_costs(rows, reference)
    rows = [noisy_row(), *rows]
    add_scores(rows, report, arguments.metrics)
    add_differences(rows, scored, arguments.metrics, reference)
    content = {
        "reference": reference,
        "runs": rows,
        "held_out": None if report is None else report["settings"],
        "versions": None if report is None else report["versions"],
        "problem": problem,
    }
    tables = comparison_tables(rows, scored, arguments.metrics, reference)
    text = "\n".join(map(to_markdown, tables))
    write_text(out / "comparison.md", text)
    write_text(out / "comparison.csv", to_csv(rows))
    write_text(out / "comparison.json", json.dumps(content, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(content))
        return
    print(f"\n{text}\nwritten to {out}: comparison.md, comparison.csv, comparison.json")
    if problem:
        print(f"no scores: {problem}")


def _show(runs: dict[str, Run], chosen: list[str], reference: str, arguments: argparse.Namespace) -> int:
    for name in chosen:
        line = shlex.join(["kdse", *runs[name].command()])
        print(f"# {name}: finished" if runs[name].state == "finished" else line)
    scored = [name for name, run in runs.items() if name in chosen or run.state == "finished"]
    print(shlex.join(["kdse", *_evaluation(runs, scored, reference, arguments)]))
    return 0


def _evaluation(runs: dict[str, Run], names: list[str], reference: str, arguments: argparse.Namespace) -> list[str]:
    """Arguments of `kdse` that score the named runs."""
    flags = given_flags(arguments)
    if not any(getattr(arguments, source) for source in SOURCES):
        data = runs[reference if reference in names else names[0]].folder
        flags = ["--data-config", str(data / CONFIG), *flags]
    systems = [f"{name}={last_checkpoint(runs[name].folder)}" for name in names]
    # our own folder: what it holds of other runs, items or metrics is replaced
    flags += ["--trust-code"] if arguments.trust_code else []
    return ["evaluate", *systems, *flags, "--out", str(arguments.out / SCORES), "--overwrite"]


def _run(name: str, base: Path, delta: Path, out: Path, flags: list[str]) -> Run:
    configs = [_read(base, "--base"), _read(delta, "DELTA")]
    # (by what they hold: a table must not mix students of two teachers at one path)
    teachers = [located(path) for path in [*in_configs(configs, TEACHER), *in_flags(flags, TEACHER)]]
    teacher = digest(teachers[-1]) if teachers and teachers[-1].is_file() else None
    settings = {"base": configs[0], "delta": configs[1], "flags": flags, "teacher": teacher}
    settings["corpus"] = os.environ.get("KDSE_CORPUS")
    fit = ["--config", str(base), "--config", str(delta), *flags]
    return Run(name, out / name, fit, json.loads(json.dumps(settings, default=str)))


def _read(path: Path, flag: str) -> dict[str, Any]:
    try:
        return read_config(path)
    except UserError as error:
        raise UserError(f"{flag} {error}") from None


def _deltas(texts: list[str], base: Path) -> dict[str, Path]:
    """Runs by name; the base among them (from a pattern such as ``folder/*.yaml``) is passed over."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = Path(text).stem, text
        if Path(path).resolve() == base.resolve():
            continue
        if name in ("", NOISY, SCORES) or "/" in name or "=" in name:
            raise UserError(f"DELTA {text}: a run cannot be called {name!r}; write NAME={path} with another name")
        if name in found:
            raise UserError(f"DELTA {text}: two runs are called {name!r}; write NAME={path} with another name")
        found[name] = Path(path)
    if not found:
        raise UserError(f"DELTA: only the base {base} was given; name at least one config to run over it")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kdse compare", description=DESCRIPTION, epilog=EPILOG)
    parser.allow_abbrev = False  # a fit flag must not pass for one of ours
    add = parser.add_argument
    add("deltas", nargs="+", metavar="[NAME=]DELTA", help="config with what one run adds to the base")
    add("--base", type=Path, required=True, metavar="BASE", help="config that all runs share")
    add("--out", type=Path, required=True, metavar="OUT", help="folder for the runs and the table")
    add("--reference", metavar="NAME", help="run whose step costs 1: the supervised one (default: the first delta)")
    add("--only", nargs="+", metavar="NAME", help="train these runs only; the table shows all")
    add("--dry-run", action="store_true", help="print the commands and stop")
    add("--json", action="store_true", help="print comparison.json instead of the table")
    add("--trust-code", action="store_true", help=f"{TRUST_CODE} (models and data modules of your own, when scoring)")
    add_item_options(parser)
    add_scoring_options(parser)
    parser.set_defaults(metrics=METRICS)
    return parser
