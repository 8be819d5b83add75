"""`kdse evaluate`: score systems and the unprocessed noisy input on the same held-out items."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel

from kdse.commands.model import add_model, checked_device, checkpoint_file, labelled, run_of
from kdse.commands.parser import Parser
from kdse.data.known_sets import compare_noisy, recognise, undecided
from kdse.errors import UserError, printable, require_at_least
from kdse.evaluation.journal import Journal
from kdse.evaluation.options import add_item_options, add_scoring_options, held_out_of, item_record, model_files
from kdse.evaluation.scoring import per_file_csv, score_system
from kdse.evaluation.systems import System, enhanced_folders, folder_system, model_system, unprocessed
from kdse.machine.files import write_text
from kdse.machine.progress import counting
from kdse.machine.threads import available_cores
from kdse.metrics.pool import ScorePool
from kdse.metrics.registry import METRICS, check_metrics
from kdse.metrics.squim import cached_weights
from kdse.metrics.table import NOISY, Row, Summary, check_failures, records, summarize, to_csv
from kdse.report.tables.scores import score_table
from kdse.report.tables.table import Table
from kdse.report.tables.writers import markdown_text, to_markdown, to_rich

if TYPE_CHECKING:
    from kdse.evaluation.held_out import HeldOut
    from kdse.pretrained import Named

#: In a run folder: where the scores of its checkpoint go if no other folder is named.
SCORES = "scores"

DESCRIPTION = """\
Scores models and folders of enhanced audio, and always the unprocessed noisy input, on the same held-out items.

Writes to --out: summary.md, summary.csv, summary.json (settings, variant of every metric, versions, cost, every
failure), per_file.csv, and scores.jsonl, where every score is kept as soon as it is there: run the same command again
after an interruption, or with more systems, and only what is missing is computed.

Values in round brackets are the improvement over the noisy input, square brackets hold a 95 % interval over files, and
a value marked with the sign for "about equal" is not clearly different from the best on the same files (the best of
all but a system called "teacher"). An item that a
metric cannot score is excluded from that metric's mean, counted, and listed with its reason; more than
--max-failed-share of them end the command with exit 2. Audio longer than a metric takes (20 s for PESQ) is scored in
equal pieces; "pieces" in per_file.csv and "in pieces" in the summary count them.

Files of --enhanced are called as those of NOISY, or all with the same prefix or suffix (as _enhanced), which is said.

The test sets of VoiceBank-DEMAND and DNS-2020 are recognised; a noisy input that does not score what was published
for it is a loud warning.
"""
EXAMPLES = """\
examples:
  kdse evaluate runs/teacher small=runs/student best=runs/student:best --corpus DIR --out runs/scores
  kdse evaluate runs/student --paired noisy_testset_wav clean_testset_wav
  kdse evaluate small=student.onnx --paired NOISY CLEAN --enhanced rnnoise=DIR --metrics si_sdr pesq_wb --out scores
"""


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    started = time.monotonic()
    require_at_least(0, **{"--workers": arguments.workers})
    metrics, files = tuple(arguments.metrics), model_files(arguments)
    check_metrics(metrics, arguments.sample_rate_hz, files)
    if not 0 <= arguments.max_failed_share <= 1:
        raise UserError(f"--max-failed-share {arguments.max_failed_share}: must be from 0 to 1")
    if arguments.save_audio < 0:
        raise UserError(f"--save-audio {arguments.save_audio}: give 0 or more")
    if arguments.enhanced and not arguments.paired:
        raise UserError("--enhanced: files can only be matched to files; give --paired NOISY CLEAN too")
    with ScorePool(metrics, arguments.sample_rate_hz, arguments.workers, files=files) as pool:
        if arguments.data_config is None:  # (else the config says at which rate)
            pool.start()  # while this process still imports torch
        import torch

        before = torch.get_num_threads()  # (those that wait for work would take the workers' cores)
        torch.set_num_threads(max(1, available_cores() - arguments.workers))
        try:
            return _evaluate(arguments, pool, started)
        finally:
            torch.set_num_threads(before)


def _evaluate(arguments: argparse.Namespace, pool: ScorePool, started: float) -> int:
    metrics, files = pool.metrics, pool.files
    models = labelled(arguments.models, arguments.init)
    out = _out(arguments.out, models)
    folders = enhanced_folders(arguments.enhanced, taken=list(models))
    device = checked_device(arguments.device)
    items = item_record(arguments)
    held_out = held_out_of(items, arguments.trust_code)
    rate = pool.sample_rate_hz = held_out.sample_rate_hz
    systems: dict[str, System] = {NOISY: unprocessed()}
    for label, named in models.items():
        with tempfile.TemporaryDirectory(prefix="kdse-evaluate-") as temporary:
            path = checkpoint_file(named, arguments, Path(temporary), rate)
            trusted = arguments.trust_code or not named.path
            systems[label] = model_system(path, rate, device, trusted, cost=not arguments.no_cost)
        if named.path is None:
            systems[label].about["path"] = named.class_path
    for label, folder in folders.items():
        systems[label] = folder_system(folder, rate, held_out.names)

    rows: list[Row] = []
    told: list[str] = []
    warned: list[str] = []
    versions = _versions()
    settings = {"items": items, "data": held_out.settings.get("data"), **_conditions(metrics, files, versions)}
    with (
        Journal(out, settings, arguments.overwrite) as journal,
        counting() as progress,
    ):
        if len(journal):
            progress.print(f"{len(journal)} scores in {journal.path} are kept")
        if journal.damaged:
            warned.append(f"{journal.damaged} lines of {journal.path} were damaged; their scores are computed again")
        for label, system in systems.items():
            advance = progress.add(label, "items", len(held_out))
            rows += score_system(label, system, held_out, pool, journal, advance, out / "audio", arguments.save_audio)
            write_text(out / "per_file.csv", per_file_csv(rows, metrics))  # a finished system is never lost
            if label == NOISY:  # before hours of models
                told, unlike = _against_published(rows, metrics, held_out)
                warned += unlike
                for text in told:
                    progress.print(text)
                for text in warned:
                    progress.print(Panel(text, title="WARNING", border_style="bold red"))

    summary = summarize(rows, metrics, max_failed_share=None)
    table = score_table(rows, metrics, exclude_from_best=[label for label in systems if label == "teacher"])
    report = {
        "settings": {**held_out.settings, "sample_rate_hz": rate, "device": device},
        "items": items,
        "known_set": told,
        "warnings": warned,
        "metrics": {name: {"unit": METRICS[name].unit, "variant": METRICS[name].variant} for name in metrics},
        "versions": versions,
        "machine": {"cpus": available_cores(), "processor": platform.machine(), "system": platform.system()},
        "systems": {label: system.about for label, system in systems.items()},
        "table": records(summary),
        "failures": [
            dict(zip(("set", "system", "name", "metric", "reason"), failure, strict=True))
            for failure in summary.failures
        ],
        "workers": arguments.workers,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_text(out / "summary.csv", to_csv(records(summary)))
    write_text(out / "summary.md", _markdown(table, told, warned))
    write_text(out / "summary.json", json.dumps(report, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(report))
    else:
        _print(table, summary, out, len(held_out))
    for text in warned:
        print(f"WARNING: {text}", file=sys.stderr)
    try:
        check_failures(summary, arguments.max_failed_share)
    except ValueError as error:
        raise UserError(f"{error}; all results are in {out}, --max-failed-share allows more") from None
    return 0


def _conditions(metrics: Sequence[str], files: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, Any]:
    """What a score depends on, besides its item and system: other conditions, other scores."""
    packages = {"kdse", "torch", "numpy", "scipy", *(package for name in metrics for package in METRICS[name].packages)}
    if "squim" not in files and any(METRICS[name].file == "squim" for name in metrics):
        files = {**files, "squim": cached_weights()}
    return {
        "metrics": {name: METRICS[name].variant for name in metrics},
        "packages": {package: versions.get(package, "") for package in sorted(packages)},
        "files": {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in files.items()},
    }


def _against_published(rows: list[Row], metrics: Sequence[str], held_out: HeldOut) -> tuple[list[str], list[str]]:
    """What is known of this test set's noisy input: what to tell, and what to warn of."""
    names, where = [row.name for row in rows], json.dumps(held_out.settings, default=str)
    recognised = recognise(names, where)
    if recognised is None:
        return [text for text in (undecided(names, where),) if text], []
    line = summarize(rows, metrics, max_failed_share=None).line(NOISY)
    return compare_noisy(recognised, line.values)


def _markdown(table: Table, told: list[str], warned: list[str]) -> str:
    loud = [f"**WARNING: {markdown_text(text)}.**\n\n" for text in warned]
    return "".join([*loud, *(f"{markdown_text(text)}.\n\n" for text in told), to_markdown(table)])


def _out(given: Path | None, models: Mapping[str, Named]) -> Path:
    """The folder of --out; by default that beside the only run among the models."""
    runs = {run for named in models.values() if (run := run_of(named)) is not None}
    if given is None and len(runs) != 1:
        raise UserError("--out: give a folder for the results (RUN/scores is the default of models of one run)")
    return given or runs.pop() / SCORES


def _parser() -> argparse.ArgumentParser:
    parser = Parser("kdse evaluate", DESCRIPTION, EXAMPLES)
    add_model(parser, "models", nargs="*", metavar="[LABEL=]MODEL")
    add = parser.add_argument
    add("--enhanced", action="append", default=[], metavar="LABEL=DIR", help="folder of enhanced files; with --paired")
    add_item_options(parser)
    add_scoring_options(parser)
    add("--out", type=Path, metavar="DIR", help="folder for the results (default: RUN/scores, for models of one run)")
    parser.add_overwrite("what --out holds of other items, metrics or versions")
    parser.add_json()
    return parser


def _print(table: Table, summary: Summary, out: Path, items: int) -> None:
    # a file or pipe has no width; never wrap a table there
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(to_rich(table))
    from kdse.data.file_pairs import LISTED

    for group, system, name, metric, why in summary.failures[:LISTED]:
        text = f"failed: {metric} of {system} on {f'{group}/' if group else ''}{name}: {why}"
        console.print(printable(text), markup=False)
    if len(summary.failures) > LISTED:
        console.print(f"... and {len(summary.failures) - LISTED} more in per_file.csv")
    console.print(f"written to {out}: summary.md, summary.csv, summary.json, per_file.csv", markup=False)


def _versions() -> dict[str, str]:
    import kdse

    used = {package for metric in METRICS.values() for package in metric.packages}
    packages = sorted({"torch", "numpy", "scipy", "soundfile"} | used)
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {"kdse": kdse.__version__, "python": platform.python_version(), **found}
