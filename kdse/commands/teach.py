"""`kdse teach`: runs teachers once over a fixed set of items and writes what training then reads instead."""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.commands.model import add_model, checked_device, labelled, open_model
from kdse.commands.parser import Parser, at_least, name_and_value
from kdse.errors import UserError, printable
from kdse.machine.progress import counting, say
from kdse.machine.threads import available_cores
from kdse.machine.yaml_file import read_yaml

if TYPE_CHECKING:
    from kdse.training.teaching import Source

DESCRIPTION = """\
Runs one or more teachers once over the training items of a data module, or over a folder of recordings, and writes what
they make of them: a taught set, which training reads instead of running a teacher (`kdse fit --data.taught_set SET`).

--config takes the config of the run that it is for: its data section says which items, of how many epochs (--epochs)
of steps_per_epoch times batch_size items each. Training goes through them again and again, with any batch size and any
number of epochs; sweeps, seeds and comparisons share one set. --folder takes whole recordings, for any crops of them
(NoisyFolder, PairedFolders). --data.NAME=VALUE replaces a setting of the data section, as it does in kdse fit.

Delay and level of every teacher are measured on speech and taken out of what it makes. A teacher at another sample rate
is resampled. Size and time are stated before it starts. It can be killed and run again: finished pieces stay, and the
files are the same to the bit. With more --epochs, a finished set grows.
"""
EXAMPLES = """\
examples:
  kdse teach cruse-62k --config run.yaml --out taught --epochs 4
  kdse fit --config run.yaml --data.taught_set taught
  kdse teach runs/teacher second=other.ckpt --config run.yaml --data.root corpus/ --out taught
  kdse teach cruse-62k --folder recordings/ --out taught   and then   --data.taught_set taught
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    words, arguments_of_data = _data_flags(argv)
    arguments = _parser().parse_args(words, argparse.Namespace(data=arguments_of_data))
    if (arguments.config is None) == (arguments.folder is None):
        raise UserError("--config, --folder: give one of them, which says what is taught on")
    if arguments.folder is not None and (arguments.taps or arguments.data or arguments.epochs != 1):
        raise UserError("--taps, --data.NAME, --epochs: are of --config; recordings of a --folder are cropped later")
    if arguments.config is not None and arguments.sample_rate_hz is not None:
        raise UserError("--sample-rate-hz: is of --folder; --config has its own (--data.sample_rate_hz)")
    if arguments.taps and len(arguments.models) > 1:
        raise UserError("--taps: activations of several teachers have no common target; give one MODEL")
    from kdse.training import teaching

    out: Path = arguments.out
    known = teaching.known_set(out, arguments.overwrite)
    sources = _sources(arguments)
    items, about = _items(arguments)
    device = checked_device(arguments.device)
    with teaching.one_thread():
        work = teaching.Teaching(out, items, about, sources, tuple(arguments.taps), device)
        for source, model in zip(sources, work.models, strict=True):
            if source.random and not model.inner.brings_weights and any(True for _ in model.inner.parameters()):
                say(f"{source.name}: has random weights: it is named by its class; name a checkpoint to teach with")
        work.prepare(known)
        if known is not None:
            teaching.check_same(out, work.about, known)
        taught = teaching.TaughtSet(out, work.about)
        todo = [p for p in range(taught.pieces) if known is None or not taught.finished(p)]
        workers = min(_processes(arguments.workers, device), len(todo))
        size = sum(taught.bytes_of(piece) for piece in todo)
        teaching.check_space(out, size)
        seconds = work.seconds_an_item(taught) if todo else 0.0
    count = sum(len(taught.items_of(piece)) for piece in todo)
    hours = taught.lengths.sum() / taught.about["sample_rate_hz"] / 3600
    expected = seconds * count / max(1, min(workers or 1, available_cores()))
    show = not arguments.json
    if show:
        for teacher in taught.about["teachers"]:
            say(_of_teacher(teacher))
        cost = f"{seconds * 1e3:.0f} ms an item, {workers or 1} at once"
        say(
            f"{out}: {len(taught)} items ({hours:.2f} hours), {len(taught) - count} of them there; {size / 1e6:.0f} MB "
            f"to write in about {expected:.0f} s" + f" ({cost})" * bool(todo)
        )
    started = time.monotonic()
    with teaching.begun(out, work.about, arguments.overwrite), counting(show) as progress:
        advance = progress.add("teach", "items", len(taught), len(taught) - count)
        for piece in teaching.run(work, todo, workers):
            advance(len(taught.items_of(piece)))
    spent = time.monotonic() - started
    report = {
        "out": str(out), "items": len(taught), "made": count, "hours": round(float(hours), 3),
        "bytes": sum(taught.bytes_of(piece) for piece in range(taught.pieces)), "teachers": taught.about["teachers"],
        "seconds": round(spent, 1), "expected_seconds": round(expected, 1),
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        size = report["bytes"] / 1e6
        print(f"{printable(out)}: {len(taught)} items of {', '.join(taught.teachers)}, {size:.0f} MB, {spent:.0f} s")
        print(f"train on it with  --data.taught_set {printable(out)}")
    return 0


def _data_flags(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The command line without its --data.NAME flags, and the settings that these give."""
    words, given = [], {}
    left = iter(argv)
    for word in left:
        flag, equals, text = word.partition("=")
        if not flag.startswith("--data."):
            words.append(word)
            continue
        name = flag.removeprefix("--data.").replace("-", "_")
        try:
            given[name] = name_and_value(f"{name}={text if equals else next(left, '')}")[1]
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--data.{error}") from None
    return words, given


def _sources(arguments: argparse.Namespace) -> list[Source]:
    """The teachers of the command line, with what is given of their delay and level."""
    from kdse.training.teaching import Source

    named = labelled(arguments.models, arguments.init)
    given: dict[str, list[Any]] = {}
    for flag, values in (("--delay-samples", arguments.delay_samples), ("--gain", arguments.gain)):
        if len(values) not in (0, 1, len(named)):
            raise UserError(f"{flag}: give one value, or one for each of the {len(named)} teachers")
        given[flag] = values * len(named) if len(values) == 1 else values or [None] * len(named)
    opened = argparse.Namespace(init=arguments.init, trust_code=arguments.trust_code)
    return [
        Source(label, functools.partial(open_model, one, opened), delay, gain, one.path is None)
        for (label, one), delay, gain in zip(named.items(), given["--delay-samples"], given["--gain"], strict=True)
    ]


def _items(arguments: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """What is taught on, and what a description says of it."""
    from kdse.training import teaching

    if arguments.folder is not None:
        from kdse.data.corpus.corpora import scan
        from kdse.data.file_pairs import stem

        corpus = scan(arguments.folder, "--folder")
        return teaching.recorded_items(corpus, list(map(stem, corpus.paths)), arguments.sample_rate_hz or 16000)
    import torch

    from kdse.evaluation.held_out import data_module

    contents = map(read_yaml, arguments.config)
    seeds = [content.get("seed_everything") for content in contents if isinstance(content, dict)]
    torch.manual_seed(next((seed for seed in reversed(seeds) if type(seed) is int), 0))  # (0 is that of kdse fit)
    # (the run that the set is for may name it, and how else it would be taught; nothing of that is an item's)
    others = ("taught_set", "teacher_folder", "teacher_delay_samples", "teacher_gain", "on_accelerator")
    changes = {**dict.fromkeys(others), **arguments.data}
    module, _ = data_module(arguments.config, "--config", arguments.trust_code, changes)
    return teaching.training_items(module, arguments.epochs)


def _of_teacher(teacher: dict[str, Any]) -> str:
    found = teacher["correlation"]
    how = "as given" if found is None else f"measured, correlation {found:.2f}"
    return f"{teacher['name']}: {teacher['delay_samples']} samples late, level {teacher['gain']:.3f} ({how}): taken out"


def _processes(asked: int | None, device: str) -> int:
    return asked if asked is not None else available_cores() if device == "cpu" else 1


def _parser() -> Parser:
    parser = Parser("kdse teach", DESCRIPTION, EXAMPLES)
    add_model(parser, "models", nargs="+", metavar="[NAME=]MODEL")
    add = parser.add_argument
    add("--config", type=Path, action="append", metavar="YAML", help="config of a run: its data section; repeatable")
    add("--folder", type=Path, metavar="DIR", help="recordings, searched with its subfolders")
    add("--out", type=Path, required=True, metavar="SET", help="folder of the taught set")
    add("--epochs", type=at_least(1), default=1, metavar="K", help="epochs of items (default: 1)")
    add("--taps", nargs="+", default=[], metavar="NAME",
        help="also store these taps of the teacher, in half precision (`kdse taps MODEL` lists them)")  # fmt: skip
    add("--delay-samples", nargs="+", type=int, default=[], metavar="N",
        help="how late the teacher is, at its own rate, one for all or one each (default: measured)")  # fmt: skip
    add("--gain", nargs="+", type=float, default=[], metavar="G",
        help="level of what the teacher makes, which is divided out (default: measured)")  # fmt: skip
    add("--sample-rate-hz", type=at_least(1), metavar="HZ", help="of --folder; files are resampled (default: 16000)")
    add("--workers", type=at_least(0), metavar="N", help="processes, 0 for none (default: one a core; 1 for a GPU)")
    add("--device", default="auto", help="auto, cpu or cuda: where teachers run (default: %(default)s)")
    parser.add_overwrite("the set that --out holds")
    parser.add_json()
    return parser
