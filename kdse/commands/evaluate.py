"""`kdse evaluate`: score systems and the unprocessed noisy input on the same held-out items."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.commands.systems import System, checkpoints, enhanced_folders, folder_system, model_system, unprocessed
from kdse.files import write_text
from kdse.metrics.intrusive import METRICS, check_metrics, failed
from kdse.metrics.pool import ScorePool
from kdse.metrics.table import (
    NOISY,
    Row,
    Summary,
    check_failures,
    records,
    summarize,
    to_csv,
    to_markdown,
    to_rich,
)

if TYPE_CHECKING:
    from torch import Tensor

    from kdse.commands.held_out import HeldOut, Item

DESCRIPTION = """\
Scores checkpoints (and folders of enhanced audio) and always the unprocessed noisy input, on the same held-out items.

Writes to --out: summary.md, summary.csv, summary.json (settings, versions, every failure) and per_file.csv.
Values in brackets are the improvement over the noisy input. An item that a metric cannot score is excluded from that
metric's mean, counted, and listed with its reason; more than --max-failed-share of them end the command with exit 2.
"""
EXAMPLES = """\
examples:
  kdse evaluate runs/teacher small=runs/student/checkpoints/last.ckpt --corpus DIR --out runs/scores
  kdse evaluate runs/student --paired noisy_testset_wav clean_testset_wav --out runs/vbdmd
  kdse evaluate --paired NOISY CLEAN --enhanced rnnoise=DIR --metrics si_sdr pesq_wb --out runs/rnnoise
"""


def main(argv: list[str]) -> int:
    """Runs the command; raises ValueError for a user's mistake."""
    arguments = _parser().parse_args(argv)
    started = time.monotonic()
    check_metrics(arguments.metrics, arguments.sample_rate_hz)
    paths = checkpoints(arguments.checkpoints)
    folders = enhanced_folders(arguments.enhanced, taken=list(paths))
    device = _device(arguments.device)
    held_out = _held_out(arguments)
    systems: dict[str, System] = {NOISY: unprocessed}
    about: dict[str, dict[str, Any]] = {NOISY: {"kind": "unprocessed input"}}
    for label, path in paths.items():
        systems[label], about[label] = model_system(path, held_out.sample_rate_hz, device, arguments.trust_code)
    for label, folder in folders.items():
        systems[label], about[label] = folder_system(folder, held_out.sample_rate_hz)

    out = Path(arguments.out)
    metrics = tuple(arguments.metrics)
    rows: list[Row] = []
    with ScorePool(metrics, held_out.sample_rate_hz, arguments.workers) as pool, _progress() as progress:
        for label, system in systems.items():
            task = progress.add_task(label, total=len(held_out))
            advance = functools.partial(progress.advance, task)
            rows += score_system(label, system, held_out, pool, advance, out / "audio", arguments.save_audio)
            write_text(out / "per_file.csv", per_file_csv(rows, metrics))  # a finished system is never lost

    summary = summarize(rows, metrics, max_failed_share=None)
    report = {
        "settings": {**held_out.settings, "sample_rate_hz": held_out.sample_rate_hz, "device": device},
        "metrics": {name: {"unit": METRICS[name].unit, "variant": METRICS[name].variant} for name in metrics},
        "versions": _versions(),
        "systems": about,
        "table": records(summary),
        "failures": [
            dict(zip(("set", "system", "name", "metric", "reason"), failure, strict=True))
            for failure in summary.failures
        ],
        "workers": arguments.workers,
        "seconds": round(time.monotonic() - started, 1),
    }
    write_text(out / "summary.csv", to_csv(records(summary)))
    write_text(out / "summary.md", to_markdown(summary))
    write_text(out / "summary.json", json.dumps(report, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(report))
    else:
        _print(summary, out, len(held_out))
    try:
        check_failures(summary, arguments.max_failed_share)
    except ValueError as error:
        raise ValueError(f"{error}; all results are in {out}, --max-failed-share allows more") from None
    return 0


def score_system(
    label: str,
    system: System,
    held_out: HeldOut,
    pool: ScorePool,
    advance: Callable[[], None] = lambda: None,
    audio: Path = Path("audio"),
    audio_items: int = 0,
) -> list[Row]:
    """One system's rows, in the order of the items.

    Args:
        label: name of the system.
        system: what makes the estimate.
        held_out: the items.
        pool: scores them.
        advance: called after every item.
        audio: folder that gets the first ``audio_items`` estimates as wav (with the clean speech, if noisy).
        audio_items: how many.
    """
    pending: list[tuple[Item, str]] = []  # without audio: (item, why there is no estimate)
    for index, item in enumerate(held_out):
        reason = ""
        try:
            estimate = system(item)
        except ValueError as error:
            reason = " ".join(str(error).split())
        else:
            pool.submit(item.name, item.clean, {label: estimate})
            if index < audio_items:
                _save_audio(audio, item, label, estimate, held_out.sample_rate_hz)
        pending.append((item._replace(noisy=item.noisy[:0], clean=item.clean[:0]), reason))
        advance()
    scored = iter(pool.collect())
    rows = []
    for item, reason in pending:
        scores = failed(pool.metrics, reason) if reason else next(scored).scores[label]
        rows.append(Row(label, item.name, scores.values, scores.failures, item.snr_db, item.group))
    return rows


def per_file_csv(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """One line an item and system, sorted by set, system (as given) and name."""
    table = []
    order = {system: index for index, system in enumerate(dict.fromkeys(row.system for row in rows))}
    for row in sorted(rows, key=lambda r: (r.group, order[r.system], r.name)):
        values = {m: None if math.isnan(row.values[m]) else row.values[m] for m in metrics}
        failures = "; ".join(f"{m}: {why}" for m, why in row.failures.items())
        snr_db = None if math.isnan(row.snr_db) else row.snr_db
        table.append({
            "set": row.group, "system": row.system, "name": row.name, "snr_db": snr_db, **values, "failures": failures
        })  # fmt: skip
    return to_csv(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdse evaluate",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoints", nargs="*", metavar="[LABEL=]CHECKPOINT", help="checkpoint file or run folder")
    add("--enhanced", action="append", default=[], metavar="LABEL=DIR", help="folder of enhanced files; with --paired")
    add_item_options(parser)
    add_scoring_options(parser)
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add("--json", action="store_true", help="print summary.json instead of a table")
    return parser


def add_item_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which items are scored."""
    source = parser.add_argument_group("test items (one of the first four)")
    one = source.add_mutually_exclusive_group()
    one.add_argument("--paired", nargs=2, metavar=("NOISY", "CLEAN"), type=Path, help="two folders of matching files")
    one.add_argument("--corpus", metavar="DIR", help="mix the test split of this corpus (default: KDSE_CORPUS)")
    one.add_argument("--synthetic", action="store_true", help="mix the test split of the embedded corpus")
    one.add_argument(
        "--data-config", type=Path, metavar="YAML", help="the test set of a data module or of a run's config"
    )
    add = source.add_argument
    add("--snr-db", nargs="*", type=float, default=[-5.0, 0.0, 5.0, 10.0], metavar="DB", help="(default: -5 0 5 10)")
    add("--range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="a second set with SNRs drawn from this range")
    add("--items", type=int, default=24, help="mixtures at each SNR (default: %(default)s)")
    add("--seconds", type=float, default=4.0, help="length of a mixture (default: %(default)s)")
    add("--snr-definition", default="rms", help="rms, active or lufs (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the mixtures (default: %(default)s)")
    add("--sample-rate-hz", type=int, default=16000, help="other files are resampled to it (default: %(default)s)")


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how systems are run and scored."""
    add = parser.add_argument_group("scoring").add_argument
    names = list(METRICS)
    default = ["si_sdr", "sdr", "pesq_wb", "stoi", "estoi"]
    add("--metrics", nargs="+", choices=names, default=default, metavar="NAME", help=f"of {', '.join(names)}")
    add("--max-failed-share", type=float, default=0.1, help="of a system's items, by metric (default: %(default)s)")
    add(
        "--workers", type=int, default=_cores(), help="scoring processes; 0: this one (default: all cores, %(default)s)"
    )
    add("--device", default="auto", help="auto, cpu or cuda: where models run (default: %(default)s)")
    add("--save-audio", type=int, default=0, metavar="N", help="write the first N items as wav, of every system")
    add("--trust-code", action="store_true", help="let checkpoints name classes that kdse does not ship")


def _held_out(arguments: argparse.Namespace) -> HeldOut:
    from kdse.commands import held_out

    if arguments.enhanced and not arguments.paired:
        raise ValueError("--enhanced: files can only be matched to files; give --paired NOISY CLEAN too")
    if arguments.paired:
        noisy, clean = arguments.paired
        return held_out.paired(noisy, clean, arguments.sample_rate_hz)
    if arguments.data_config:
        return held_out.from_config(arguments.data_config)
    if arguments.items < 1 or arguments.seconds <= 0:
        raise ValueError("--items and --seconds must be positive")
    if not arguments.snr_db and arguments.range is None:
        raise ValueError("--snr-db: give at least one SNR, or --range")
    if arguments.range is not None and arguments.range[0] > arguments.range[1]:
        raise ValueError(f"--range {arguments.range[0]:g} {arguments.range[1]:g}: give the lower end first")
    if not arguments.synthetic and arguments.corpus is None and not os.environ.get("KDSE_CORPUS"):
        raise ValueError("no test items: give --paired, --corpus, --synthetic or --data-config, or set KDSE_CORPUS")
    from kdse.data import Mixtures, SyntheticCorpus

    common: dict[str, Any] = {
        "snr_definition": arguments.snr_definition,
        "sample_rate_hz": arguments.sample_rate_hz,
        "seed": arguments.seed,
    }
    module = SyntheticCorpus(**common) if arguments.synthetic else Mixtures(root=arguments.corpus, **common)
    module.prepare_data()
    module.setup("test")
    return held_out.mixtures(module, arguments.snr_db, arguments.range, arguments.items, arguments.seconds)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}; use cpu") from None
    return name


def _save_audio(folder: Path, item: Item, label: str, estimate: Tensor, sample_rate_hz: int) -> None:
    from kdse.data.audio import write

    snr = "" if math.isnan(item.snr_db) else f"_{item.snr_db:g}dB"
    stem = "_".join(f"{item.group} {item.name}{snr}".replace("/", "_").split())
    signals = {label: estimate} | ({"clean": item.clean} if label == NOISY else {})
    for name, signal in signals.items():
        file_name = f"{stem}_{name}.wav".replace("/", "_")
        write(folder / file_name, signal.clamp(-1, 1), sample_rate_hz)


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _print(summary: Summary, out: Path, items: int) -> None:
    from rich.console import Console

    # a file or pipe has no width; never wrap a table there
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(to_rich(summary, title=f"{items} items; in brackets the improvement over noisy"))
    for group, system, name, metric, why in summary.failures[:5]:
        console.print(f"failed: {metric} of {system} on {f'{group}/' if group else ''}{name}: {why}", markup=False)
    if len(summary.failures) > 5:
        console.print(f"... and {len(summary.failures) - 5} more in per_file.csv")
    console.print(f"written to {out}: summary.md, summary.csv, summary.json, per_file.csv", markup=False)


def _versions() -> dict[str, str]:
    import kdse

    packages = ("torch", "torchmetrics", "pesq", "pystoi", "numpy", "scipy")
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return {"kdse": kdse.__version__, "python": platform.python_version(), **found}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
