"""`kdse enhance`: denoise audio files and folders with a trained model."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.commands.model import add_model, open_in_backend
from kdse.commands.parser import Parser, at_least
from kdse.errors import UserError, one_line, printable
from kdse.pretrained import DEFAULT, MODEL

if TYPE_CHECKING:
    from kdse.models.base import SpeechModel

OUT = "enhanced"
EPILOG = """\
Results keep the input's name, subfolders, sample rate, channels, format and exact length, and are aligned with it in
time. Other sample rates are resampled to the model's and back (a 16 kHz model leaves nothing above 8 kHz); each
channel is processed on its own.

Files longer than --chunk-seconds: a model that streams carries its state through the file, in constant memory, and
the result equals processing it at once; another model processes overlapping chunks and cross-fades them, and the
result differs from --whole-file, which needs memory in proportion to the length. --stream streams any length.

--mix M is a wet/dry control: result = (1 - M) * enhanced + M * noisy. Nothing is attenuated by more than
-20 log10(M) dB: 0.03 leaves 30 dB, 0.1 leaves 20 dB, 0.3 leaves 10 dB.

INPUT -: raw samples from standard input to standard output in real time. A sample comes out as soon as the model can
know it; the latency is printed on standard error. Rates other than the model's are resampled, which adds 1.4 ms at
48 kHz and 1.5 ms at 44.1 kHz. At the end of the input, and on Ctrl-C, the rest is written. An input that begins as a
file does (WAV, FLAC, Ogg, MP3 with tags, AIFF, ...) is read to its end first, and comes out in its format.

--live needs `pip install 'kdse[live]'`; wear headphones, or the microphone hears the loudspeaker.

Exit code: 0 if every file was enhanced or skipped, 1 if some could not be read or written, 2 on a wrong command line;
of INPUT -: 130 after Ctrl-C, 141 if the reader of standard output went away.

examples:
  kdse enhance noisy.wav
  kdse enhance recordings/ more/talk.flac --checkpoint runs/student --out clean --overwrite
  kdse enhance noisy.wav --mix 0.1 --backend torch
  ffmpeg -i talk.mp4 -f s16le -ac 1 -ar 16000 - | kdse enhance - | aplay -f S16_LE -r 16000
  arecord -f S16_LE -r 48000 -c 2 | kdse enhance - --rate 48000 --channels 2 | aplay -f S16_LE -r 48000 -c 2
  kdse enhance --live --mix 0.05
"""


def make_parser() -> Parser:
    parser = Parser("kdse enhance", "Denoise audio files, folders of them, a pipe or the microphone.", EPILOG)
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="audio file, folder searched with its subfolders, or - for a pipe")
    add_model(parser, "--checkpoint", "--model", dest="model", default=DEFAULT, help=f"{MODEL} (default: {DEFAULT})")
    add(
        "--backend", choices=("auto", "torch", "onnx"), default="auto",
        help="what runs a checkpoint: torch, onnx (ONNX Runtime on the CPU, for models that stream) or auto (default): "
        "onnx if it is installed and the graph is there, as those of the box are. --backend onnx exports the graph of "
        "a checkpoint of yours, which takes seconds, and keeps it in kdse's cache; .onnx files always run there",
    )  # fmt: skip
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1 or auto")
    add(
        "--mix", type=float, default=0.0, metavar="M",
        help="share of the noisy input kept in the result, 0 (default) to 1: limits how much is taken away",
    )  # fmt: skip
    group = parser.add_argument_group("files")
    files, either = group.add_argument, group.add_mutually_exclusive_group().add_argument
    files("--out", metavar="DIR", help=f"folder for the results, made if needed (default: {OUT})")
    files("--overwrite", action="store_true", help="replace results that exist (default: skip them)")
    files("--chunk-seconds", type=at_least(0.1, float), help="longer files are processed in pieces (default: 30)")
    either("--whole-file", action="store_true", help="process every file at once, however long it is")
    either("--stream", action="store_true", help="process every file as a stream, however short it is")
    files("--json", action="store_true", help="print one JSON document: one entry a file")
    pipe = parser.add_argument_group("INPUT - (raw samples)").add_argument
    pipe("--format", choices=("s16le", "f32le"), help="of both sides (default: s16le)")
    pipe("--rate", type=int, metavar="HZ", help="sample rate of both sides (default: the model's)")
    pipe("--channels", type=int, metavar="N", help="interleaved channels of both sides (default: 1)")
    live = parser.add_argument_group("microphone to loudspeaker").add_argument
    live("--live", action="store_true", help="enhance what the microphone hears, until Ctrl-C")
    live("--input-device", metavar="NAME", help="microphone: number or part of the name")
    live("--output-device", metavar="NAME", help="loudspeaker: number or part of the name")
    live("--list-devices", action="store_true", help="list the devices and exit")
    return parser


#: Options that only one kind of input knows.
ONLY = {
    "files": ("out", "overwrite", "chunk_seconds", "whole_file", "json"),
    "INPUT -": ("format", "rate", "channels"),
    "--live": ("input_device", "output_device", "list_devices"),
}


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    kind = _kind_of_input(arguments)
    for other, options in ONLY.items():
        values = {name: getattr(arguments, name) for name in options}
        given = [name for name, value in values.items() if value is not None and value is not False]
        if other != kind and given:
            raise UserError(f"--{given[0].replace('_', '-')}: belongs to {other}, not to {kind}; leave it out")
    if not 0 <= arguments.mix <= 1:
        raise UserError(f"--mix {arguments.mix:g}: must lie between 0 (enhanced only) and 1 (noisy only)")
    if kind == "files":
        return _run_files(arguments)
    from kdse.commands.enhance_stream import run_live, run_pipe

    return run_pipe(arguments) if kind == "INPUT -" else run_live(arguments)


def _kind_of_input(arguments: argparse.Namespace) -> str:
    if arguments.live or arguments.list_devices:
        if arguments.inputs:
            raise UserError(f"--live: takes no INPUT ({arguments.inputs[0]}); leave one of them out")
        return "--live"
    if not arguments.inputs:
        raise UserError("INPUT is missing: an audio file, a folder, or - for a pipe; `kdse enhance --help` explains")
    if "-" in arguments.inputs:
        if len(arguments.inputs) > 1:
            raise UserError("INPUT -: the pipe goes alone; enhance the files in another call")
        return "INPUT -"
    return "files"


def _run_files(arguments: argparse.Namespace) -> int:
    out = OUT if arguments.out is None else arguments.out
    jobs, passed_over = plan([Path(p) for p in arguments.inputs], Path(out))
    model, name = open_in_backend(arguments)
    if arguments.stream:
        from kdse.commands.enhance_stream import refuse_model

        refuse_model(model, "--stream")
    how = {name: getattr(arguments, name) for name in ("whole_file", "stream", "mix")}
    rows = run(model, jobs, arguments.overwrite, chunk_seconds=arguments.chunk_seconds or 30.0, **how)
    if arguments.json:
        about = {
            "checkpoint": arguments.model,
            "sample_rate_hz": model.sample_rate_hz,
            "files": rows,
            "passed_over": passed_over,
        }
        print(json.dumps(about, indent=2))
    else:
        print(summary(rows, passed_over, out, model, name, arguments.mix))
    return int(any(row["status"] == "failed" for row in rows))


def plan(inputs: list[Path], out: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(input file, output file) pairs, and what else is in folders: a line for each, as `Listing.left_out` has it.

    A file goes to ``out/name``; a folder's files keep their subfolders.

    Raises:
        UserError: if an input is missing or a folder holds no audio, two have one output, or an output is an input.
    """
    from kdse.audio.listing import extensions, list_audio
    from kdse.audio.opening import open_audio

    jobs: dict[Path, Path] = {}  # output to input
    passed_over: list[str] = []
    out_real = Path(os.path.realpath(out))
    for given in inputs:
        if given.is_dir():
            there = list_audio(given)
            pairs = [(given / f, out / f) for f in there.files if not _is_result(given / f, given, out_real)]
            left_out = there.left_out()
            if not pairs:
                raise UserError(f"{given}: no audio file in this folder or below{left_out and f' ({left_out})'}")
            passed_over += [f"{given}: {left_out}"] if left_out else []
        elif given.is_file():
            if given.suffix.lower() not in extensions():
                open_audio(given).close()  # (what is in it decides)
            pairs = [(given, out / given.name)]
        else:
            raise UserError(f"{given}: no such file or folder")
        for source, target in pairs:
            other = jobs.setdefault(target, source)
            if os.path.realpath(other) != os.path.realpath(source):
                raise UserError(f"{other} and {source} would both be written to {target}; enhance them in two calls")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder")
    sources = {os.path.realpath(source) for source in jobs.values()}
    for target, source in jobs.items():
        if os.path.realpath(target) in sources or (target.exists() and target.samefile(source)):
            raise UserError(f"--out {out}: {target} would overwrite an input; give another folder")
    return [(source, target) for target, source in jobs.items()], passed_over


def _is_result(path: Path, folder: Path, out: Path) -> bool:
    """Whether a file lies in the output folder, where that is inside the input folder."""
    return Path(os.path.realpath(folder)) in out.parents and out in Path(os.path.realpath(path)).parents


def run(
    model: SpeechModel, jobs: list[tuple[Path, Path]], overwrite: bool, **how: float | bool
) -> list[dict[str, Any]]:
    """Enhances (input file, output file) pairs with the settings of `enhance_file`; returns a row for each.

    A file that fails is reported and the others go on.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    rows: list[dict[str, Any]] = []
    seconds_done = 0.0
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("enhancing", total=len(jobs))

        def advance(seconds: float) -> None:
            nonlocal seconds_done
            seconds_done += seconds
            progress.update(task, description=f"enhancing, {seconds_done / 60:.1f} min of audio so far")

        for source, target in jobs:
            if target.exists() and not overwrite:
                row = {"status": "skipped", "message": f"{target} exists; --overwrite replaces it"}
            else:
                row = _enhance_one(model, source, target, progress=advance, **how)
            rows.append({"input": str(source), "output": str(target), **row})
            if "message" in row:
                console.out(printable(f"{row['status']} {source}: {row['message']}"), highlight=False)
            progress.advance(task)
    return rows


def _enhance_one(model: SpeechModel, source: Path, target: Path, **how: Any) -> dict[str, Any]:
    from kdse.deploy.files import enhance_file

    try:
        done = enhance_file(model, source, target, **how)
    except (ValueError, OSError, RuntimeError) as error:
        return {"status": "failed", "message": one_line(error).removeprefix(printable(f"{source}: "))}
    return {
        "status": "enhanced",
        "seconds": round(done.seconds, 6),
        "sample_rate_hz": done.sample_rate_hz,
        "channels": done.channels,
        "method": done.method,
        "clipped_samples": done.clipped,
    }


def summary(
    rows: list[dict[str, Any]], passed_over: list[str], out: str, model: SpeechModel, name: str, mix: float
) -> str:
    """What happened, with which model, and what the user should know about the results."""
    done = [row for row in rows if row["status"] == "enhanced"]
    counts = [f"{sum(row['status'] == s for row in rows)} {s}" for s in ("skipped", "failed")]
    minutes = sum(row["seconds"] for row in done) / 60
    lines = [
        f"{len(done)} of {len(rows)} files enhanced into {out} with {name} ({minutes:.1f} min of audio)"
        + "".join(f", {count}" for count in counts if not count.startswith("0 ")),
        *passed_over,
    ]
    faded = sum(row["method"] == "cross-faded" for row in done)
    if faded:
        lines.append(
            f"{faded} cross-faded in chunks, because {type(model).__name__} does not stream: the result differs from "
            "--whole-file, which needs more memory"
        )
    above = sum(row["sample_rate_hz"] > model.sample_rate_hz for row in done)
    if above:
        limit = model.sample_rate_hz / 2000
        left = f"only the noisy {mix:g}" if mix else "nothing"
        lines.append(f"{above} had a higher sample rate than the model: {left} above {limit:g} kHz is left in them")
    clipped = sum(row["clipped_samples"] > 0 for row in done)
    if clipped:
        lines.append(f"{clipped} were clipped at full scale (--json counts the samples)")
    return "\n".join(map(printable, lines))
