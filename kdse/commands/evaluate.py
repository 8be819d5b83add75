"""`kdse evaluate`: score systems and the unprocessed noisy input on the same held-out items."""

from __future__ import annotations

import argparse
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

from kdse.files import write_text
from kdse.metrics.intrusive import METRICS, failed
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

    #: Turns an item into an estimate ``[N]``; a ValueError counts the item as failed.
    System = Callable[[Item], Tensor]

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
    paths = checkpoints(arguments.checkpoints)
    folders = dict(_split(text, "--enhanced") for text in arguments.enhanced)
    _check_labels([*paths, *folders])
    held_out = _held_out(arguments)
    systems: dict[str, System] = {NOISY: lambda item: item.noisy}
    about: dict[str, dict[str, Any]] = {NOISY: {"kind": "unprocessed input"}}
    device = _device(arguments.device)
    for label, path in paths.items():
        systems[label], about[label] = model_system(path, held_out.sample_rate_hz, device, arguments.trust_code)
    for label, folder in folders.items():
        systems[label] = folder_system(Path(folder), held_out.sample_rate_hz)
        about[label] = {"kind": "enhanced folder", "folder": folder}

    out = Path(arguments.out)
    metrics = tuple(arguments.metrics)
    rows: list[Row] = []
    with ScorePool(metrics, held_out.sample_rate_hz, arguments.workers) as pool, _progress() as progress:
        for label, system in systems.items():
            task = progress.add_task(label, total=len(held_out))
            audio = out / "audio" if arguments.save_audio else None
            rows += score_system(
                label, system, held_out, pool, lambda t=task: progress.advance(t), audio, arguments.save_audio
            )
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
    audio: Path | None = None,
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
            pool.submit(item.name, item.clean, {label: estimate})
        except ValueError as error:
            reason = str(error)
        else:
            if audio is not None and index < audio_items:
                _save_audio(audio, item, label, estimate, held_out.sample_rate_hz)
        pending.append((item._replace(noisy=item.noisy[:0], clean=item.clean[:0]), reason))
        advance()
    scored = iter(pool.collect())
    rows = []
    for item, reason in pending:
        scores = failed(pool.metrics, reason) if reason else next(scored).scores[label]
        rows.append(Row(label, item.name, scores.values, scores.failures, item.snr_db, item.group))
    return rows


def model_system(path: Path, sample_rate_hz: int, device: str, trust_code: bool) -> tuple[System, dict[str, Any]]:
    """A checkpoint as a system, and what to record of it."""
    import torch

    from kdse.checkpoint import load_model

    model = load_model(path, trust_code=trust_code)
    if model.sample_rate_hz != sample_rate_hz:
        raise ValueError(
            f"checkpoint {path}: works at {model.sample_rate_hz} Hz and the test set is at {sample_rate_hz} Hz; "
            f"set --sample-rate-hz {model.sample_rate_hz}"
        )
    model.to(device)

    @torch.no_grad()
    def enhance(item: Item) -> Tensor:
        return model(item.noisy[None].to(device)).waveform[0].float().cpu()

    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return enhance, {
        "kind": "checkpoint", "path": str(path), "model": type(model).__name__, "parameters": parameters
    }  # fmt: skip


def folder_system(folder: Path, sample_rate_hz: int) -> System:
    """A folder of enhanced files, named as the items, as a system. A missing file fails its item."""
    if not folder.is_dir():
        raise ValueError(f"--enhanced {folder}: no such folder")
    from kdse.data.audio import EXTENSIONS, read

    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS:
            files.setdefault(path.stem, []).append(path)
    if not files:
        raise ValueError(f"--enhanced {folder}: holds no audio files")

    def look_up(item: Item) -> Tensor:
        found = files.get(Path(item.name).name) or files.get(Path(item.name).stem) or []
        if len(found) != 1:
            raise ValueError(f"{folder} holds {len(found) or 'no'} files for {item.name}")
        return read(found[0], sample_rate_hz)

    return look_up


def checkpoints(texts: Sequence[str]) -> dict[str, Path]:
    """Label to checkpoint file from ``label=path`` or ``path``; a run folder means its checkpoints/last.ckpt.

    Raises:
        ValueError: for a missing file or a label given twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        label, path = ("", Path(text)) if "=" not in text or Path(text).exists() else _labelled(text)
        file = path
        if path.is_dir():
            candidates = [path / "checkpoints" / "last.ckpt", path / "last.ckpt"]
            file = next((c for c in candidates if c.is_file()), candidates[0])
        if not file.is_file():
            raise ValueError(f"checkpoint {file}: no such file")
        if not label:
            inside = file.resolve().parent
            run = inside.parent if inside.name == "checkpoints" else inside
            label = run.name if file.name == "last.ckpt" else file.stem
        if label in found:
            raise ValueError(f"two systems are called {label!r}; name them, e.g. first={found[label]} second={file}")
        found[label] = file
    return found


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
    add("--trust-code", action="store_true", help="let checkpoints name classes that kdse does not ship")
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
    scoring = parser.add_argument_group("scoring and output")
    add = scoring.add_argument
    names = list(METRICS)
    default = ["si_sdr", "sdr", "pesq_wb", "stoi", "estoi"]
    add("--metrics", nargs="+", choices=names, default=default, metavar="NAME", help=f"of {', '.join(names)}")
    add("--max-failed-share", type=float, default=0.1, help="of a system's items, by metric (default: %(default)s)")
    add(
        "--workers", type=int, default=_cores(), help="scoring processes; 0: this one (default: all cores, %(default)s)"
    )
    add("--device", default="auto", help="auto, cpu or cuda: where models run (default: %(default)s)")
    add("--save-audio", type=int, default=0, metavar="N", help="write the first N items as wav, of every system")
    add("--out", required=True, metavar="DIR", help="folder for the results")
    add("--json", action="store_true", help="print summary.json instead of a table")
    return parser


def _held_out(arguments: argparse.Namespace) -> HeldOut:
    from kdse.commands import held_out

    if arguments.enhanced and not arguments.paired:
        raise ValueError("--enhanced: files can only be matched to files; give --paired NOISY CLEAN too")
    if arguments.paired:
        return held_out.paired(*arguments.paired, sample_rate_hz=arguments.sample_rate_hz)
    if arguments.data_config:
        return held_out.from_config(arguments.data_config)
    if arguments.items < 1 or arguments.seconds <= 0:
        raise ValueError("--items and --seconds must be positive")
    if not arguments.snr_db and arguments.range is None:
        raise ValueError("--snr-db: give at least one SNR, or --range")
    if arguments.range is not None and arguments.range[0] > arguments.range[1]:
        raise ValueError(f"--range {arguments.range[0]:g} {arguments.range[1]:g}: give the lower end first")
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


def _labelled(text: str) -> tuple[str, Path]:
    label, path = _split(text, "checkpoint")
    return label, Path(path)


def _split(text: str, flag: str) -> tuple[str, str]:
    label, equals, path = text.partition("=")
    if not (label and equals and path):
        raise ValueError(f"{flag} {text}: write it as LABEL=PATH")
    return label, path


def _check_labels(labels: Sequence[str]) -> None:
    for label in labels:
        if label == NOISY:
            raise ValueError(
                f"a system cannot be called {NOISY!r}: that is the unprocessed input, which is always scored"
            )
        if labels.count(label) > 1:
            raise ValueError(f"two systems are called {label!r}; give them different labels")


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
        write(folder / f"{stem}_{name}.wav", signal.clamp(-1, 1), sample_rate_hz)


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
