"""`kdse enhance`: denoise audio files and folders with a trained model."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from kdse.checkpoint import load_model
from kdse.commands.parser import Parser
from kdse.data.audio import EXTENSIONS
from kdse.deploy.files import enhance_file
from kdse.models.base import SpeechModel

EPILOG = """\
Results keep the input's name, subfolders, sample rate, channels, format and exact length, and are aligned with it in
time. Other sample rates are resampled to the model's and back (a 16 kHz model leaves nothing above 8 kHz); each
channel is processed on its own.

Files longer than --chunk-seconds: a causal model carries its state through the file, in constant memory, and the
result equals processing it at once; another model processes overlapping chunks and cross-fades them, and the result
differs from --whole-file, which needs memory in proportion to the length.

Exit code: 0 if every file was enhanced or skipped, 1 if some could not be read or written, 2 on a wrong command line.

examples:
  kdse enhance noisy.wav --checkpoint runs/student/checkpoints/last.ckpt --out enhanced
  kdse enhance recordings/ more/talk.flac --checkpoint student.ckpt --out enhanced --overwrite
"""


def make_parser() -> Parser:
    parser = Parser(
        prog="kdse enhance",
        description="Denoise wav and flac files, or folders of them, with a trained model.",
        epilog=EPILOG,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="audio file, or folder searched with its subfolders")
    parser.add_argument("--checkpoint", required=True, metavar="CKPT", help="checkpoint file of kdse fit")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results, made if needed")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist (default: skip them)")
    parser.add_argument(
        "--chunk-seconds", type=float, default=30.0, help="longer files are processed in pieces (default: 30)"
    )
    parser.add_argument("--whole-file", action="store_true", help="process every file at once, however long it is")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:1")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="let the checkpoint name model classes that kdse does not ship, and run them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for machines: one entry a file")
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; returns the exit code.

    Raises:
        ValueError: on a user's mistake.
    """
    arguments = make_parser().parse_args(argv)
    if not 0.1 <= arguments.chunk_seconds < float("inf"):
        raise ValueError(f"--chunk-seconds {arguments.chunk_seconds:g}: must be 0.1 or more")
    jobs = plan([Path(p) for p in arguments.inputs], Path(arguments.out))
    model = _to_device(load_model(arguments.checkpoint, trust_code=arguments.trust_code), arguments.device)
    rows = run(model, jobs, arguments)
    failed = sum(row["status"] == "failed" for row in rows)
    if arguments.json:
        about = {"checkpoint": arguments.checkpoint, "sample_rate_hz": model.sample_rate_hz, "files": rows}
        print(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        print(summary(rows, arguments.out, model))
    return 1 if failed else 0


def plan(inputs: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """(input file, output file) pairs: a file goes to ``out/name``, a folder's files keep their subfolders.

    Raises:
        ValueError: if an input does not exist or is not audio, a folder holds none, two inputs would be written to
            one output, or an output is an input.
    """
    jobs: dict[Path, Path] = {}  # output to input
    out_real = Path(os.path.realpath(out))
    for given in inputs:
        if given.is_dir():
            files = [f for f in sorted(given.rglob("*")) if _is_audio(f) and not _is_result(f, given, out_real)]
            if not files:
                raise ValueError(f"{given}: no {', '.join(EXTENSIONS)} file in this folder or below")
            pairs = [(f, out / f.relative_to(given)) for f in files]
        elif given.is_file():
            if given.suffix.lower() not in EXTENSIONS:
                raise ValueError(f"{given}: not a {', '.join(EXTENSIONS)} file; convert it first")
            pairs = [(given, out / given.name)]
        else:
            raise ValueError(f"{given}: no such file or folder")
        for source, target in pairs:
            other = jobs.setdefault(target, source)
            if os.path.realpath(other) != os.path.realpath(source):
                raise ValueError(f"{other} and {source} would both be written to {target}; enhance them in two calls")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out}: is a file; give a folder")
    sources = {os.path.realpath(source) for source in jobs.values()}
    for target, source in jobs.items():
        if os.path.realpath(target) in sources or (target.exists() and target.samefile(source)):
            raise ValueError(f"--out {out}: {target} would overwrite an input; give another folder")
    return [(source, target) for target, source in jobs.items()]


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _is_result(path: Path, folder: Path, out: Path) -> bool:
    """Whether a file lies in the output folder, where that is inside the input folder."""
    folder, path = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    return folder in out.parents and out in path.parents


def run(model: SpeechModel, jobs: list[tuple[Path, Path]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Enhances file by file; one that fails is reported and the others go on. Returns a row for each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    seconds_done = 0.0
    rows = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[audio]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("enhancing", total=len(jobs), audio="")

        def advance(seconds: float) -> None:
            nonlocal seconds_done
            seconds_done += seconds
            bar.update(task, audio=f"{seconds_done / 60:.1f} min of audio")

        for source, target in jobs:
            row = _enhance_one(model, source, target, arguments, advance)
            rows.append(row)
            if row["status"] == "skipped":
                bar.console.out(f"skipped {source}: {row['message']}", highlight=False)
            elif row["status"] == "failed":
                bar.console.out(f"failed {source}: {row['message']}", highlight=False)
            bar.advance(task)
    return rows


def _enhance_one(
    model: SpeechModel, source: Path, target: Path, arguments: argparse.Namespace, advance: Any
) -> dict[str, Any]:
    row: dict[str, Any] = {"input": str(source), "output": str(target)}
    if target.exists() and not arguments.overwrite:
        return row | {"status": "skipped", "message": f"{target} exists; --overwrite replaces it"}
    try:
        done = enhance_file(model, source, target, arguments.chunk_seconds, arguments.whole_file, advance)
    except (ValueError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return row | {"status": "failed", "message": reason}
    return row | {
        "status": "enhanced",
        "seconds": round(done.seconds, 6),
        "sample_rate_hz": done.sample_rate_hz,
        "channels": done.channels,
        "method": done.method,
        "clipped_samples": done.clipped,
    }


def summary(rows: list[dict[str, Any]], out: str, model: SpeechModel) -> str:
    """What happened, and what the user should know about the results."""
    done = [row for row in rows if row["status"] == "enhanced"]
    counts = [f"{sum(row['status'] == s for row in rows)} {s}" for s in ("skipped", "failed")]
    minutes = sum(row["seconds"] for row in done) / 60
    lines = [
        f"{len(done)} of {len(rows)} files enhanced into {out} ({minutes:.1f} min of audio)"
        + "".join(f", {count}" for count in counts if not count.startswith("0 "))
    ]
    faded = sum(row["method"] == "cross-faded" for row in done)
    if faded:
        why = "is not causal" if not model.causal else "does not stream"
        lines.append(
            f"{faded} cross-faded in chunks, because {type(model).__name__} {why}: the result differs from "
            "--whole-file, which needs more memory"
        )
    above = sum(row["sample_rate_hz"] > model.sample_rate_hz for row in done)
    if above:
        limit = model.sample_rate_hz / 2000
        lines.append(f"{above} had a higher sample rate than the model: nothing above {limit:g} kHz is left in them")
    clipped = sum(row["clipped_samples"] > 0 for row in done)
    if clipped:
        lines.append(f"{clipped} were clipped at full scale (--json counts the samples)")
    return "\n".join(lines)


def _to_device(model: SpeechModel, device: str) -> SpeechModel:
    import torch

    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"--device {device}: not available here ({reason}); use --device cpu") from None
