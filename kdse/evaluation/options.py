"""The options of an evaluation: which items are scored (as flags, record and test set), and how."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.errors import UserError
from kdse.machine.threads import available_cores
from kdse.metrics.registry import METRICS
from kdse.trust import LARGEST_NUMBER

if TYPE_CHECKING:
    from kdse.evaluation.held_out import HeldOut


def add_item_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which items are scored."""
    source = parser.add_argument_group("test items (one of the first four)")
    one = source.add_mutually_exclusive_group()
    one.add_argument("--paired", nargs=2, metavar=("NOISY", "CLEAN"), type=Path, help="two folders of matching files")
    one.add_argument(
        "--corpus",
        metavar="DIR",
        help="mix the test split of this corpus, or of what `kdse corpus pack` made of it (default: KDSE_CORPUS)",
    )
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


def item_record(arguments: argparse.Namespace) -> dict[str, Any]:
    """The item options as plain data, paths absolute, so that `held_out_of` builds the same test set anywhere."""
    from kdse.data.corpus.shards import is_remote

    record = {name: getattr(arguments, name) for name in vars(_defaults())}
    if not (record["paired"] or record["data_config"] or record["synthetic"]):
        record["corpus"] = record["corpus"] or os.environ.get("KDSE_CORPUS")
    for name in ("corpus", "data_config"):
        if record[name] and not is_remote(record[name]):
            record[name] = str(Path(record[name]).absolute())
    record["paired"] = record["paired"] and [str(path.absolute()) for path in record["paired"]]
    return record


def held_out_of(record: dict[str, Any], trust_code: bool = False) -> HeldOut:
    """The test set of a record; ``trust_code`` lets a config name data modules that kdse does not ship.

    Raises:
        ValueError: naming the flag, for anything missing or wrong.
    """
    from kdse.evaluation import held_out

    options = argparse.Namespace(**{name: record.get(name, default) for name, default in vars(_defaults()).items()})
    for name, fits in _RECORD.items():
        if not fits(getattr(options, name)):
            raise UserError(f"--{name.replace('_', '-')}: {getattr(options, name)!r:.60} is not what this option takes")
    _check_used(options)
    if options.paired:
        noisy, clean = options.paired
        return held_out.paired(Path(noisy), Path(clean), options.sample_rate_hz)
    if options.data_config:
        return held_out.from_config(Path(options.data_config), trust_code)
    if options.items < 1 or not 0 < options.seconds < math.inf:
        raise UserError("--items and --seconds must be positive")
    for flag, values in (("--snr-db", options.snr_db), ("--range", options.range or [])):
        if not all(math.isfinite(value) for value in values):
            raise UserError(f"{flag}: {' '.join(map(str, values))} are not all finite numbers")
    if not options.snr_db and options.range is None:
        raise UserError("--snr-db: give at least one SNR, or --range")
    if options.range is not None and options.range[0] > options.range[1]:
        raise UserError(f"--range {options.range[0]:g} {options.range[1]:g}: give the lower end first")
    if not options.synthetic and options.corpus is None:
        raise UserError("no test items: give --paired, --corpus, --synthetic or --data-config, or set KDSE_CORPUS")
    from kdse.data import Mixtures, SyntheticCorpus

    common = {name: getattr(options, name) for name in ("snr_definition", "sample_rate_hz", "seed")}
    try:
        module = SyntheticCorpus(**common) if options.synthetic else Mixtures(root=options.corpus, **common)
        module.prepare_data()
        module.setup("test")
        return held_out.mixtures(module, options.snr_db, options.range, options.items, options.seconds)
    except UserError as error:  # which names the settings of the data module
        raise UserError(re.sub(r"--data\.(\w+)", lambda found: _flag(found[1]), str(error))) from error


def _flag(setting: str) -> str:
    """The flag of an evaluation that gives a setting of `Mixtures`."""
    return "--corpus" if setting == "root" else f"--{setting.replace('_', '-')}"


def _are(kind: Any, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(inner, kind) for inner in value)


#: Longest mixture. Our choice: it is in memory as a whole.
LONGEST_SECONDS = 3600
#: What each option of a record holds: it can come from a file of somebody else's.
_RECORD: dict[str, Callable[[Any], bool]] = {
    "paired": lambda v: v is None or (_are(str | Path, v) and len(v) == 2),
    "corpus": lambda v: isinstance(v, str | None),
    "synthetic": lambda v: isinstance(v, bool),
    "data_config": lambda v: isinstance(v, str | Path | None),
    "snr_db": lambda v: _are(int | float, v),
    "range": lambda v: v is None or (_are(int | float, v) and len(v) == 2),
    "items": lambda v: type(v) is int and v <= LARGEST_NUMBER,
    "seconds": lambda v: isinstance(v, int | float) and not v > LONGEST_SECONDS,
    "snr_definition": lambda v: isinstance(v, str),
    "seed": lambda v: type(v) is int,
    "sample_rate_hz": lambda v: type(v) is int and 0 < v <= LARGEST_NUMBER,
}


def _check_used(options: argparse.Namespace) -> None:
    """Refuses flags that would do nothing: they are a mistake of who gave them."""
    source, used = "--corpus", tuple(vars(options))
    if options.paired:
        source, used = "--paired", ("paired", "sample_rate_hz", "corpus")
    elif options.data_config:
        source, used = "--data-config", ("data_config", "corpus")
    for name, default in vars(_defaults()).items():
        if name not in used and getattr(options, name) != default:
            raise UserError(f"--{name.replace('_', '-')}: does not apply to {source}, which has its own; leave it out")


def _defaults() -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    add_item_options(parser)
    return parser.parse_args([])


def given_flags(arguments: argparse.Namespace) -> list[str]:
    """The item and scoring options that differ from their defaults, as flags of `kdse evaluate`."""
    parser = argparse.ArgumentParser(add_help=False)
    add_item_options(parser)
    add_scoring_options(parser)
    flags: list[str] = []
    for name, default in vars(parser.parse_args([])).items():
        value = getattr(arguments, name)
        if value == default:
            continue
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name.replace('_', '-')}", *([] if value is True else map(str, values))]
    return flags


def model_files(arguments: argparse.Namespace) -> dict[str, str]:
    """Model files that metrics need, from the scoring options."""
    return {name: str(path) for name in ("dnsmos", "squim") if (path := getattr(arguments, name)) is not None}


def add_scoring_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how systems are run and scored."""
    add = parser.add_argument_group("scoring").add_argument
    names = list(METRICS)
    default = ["si_sdr", "sdr", "pesq_wb", "stoi", "estoi"]
    add("--metrics", nargs="+", choices=names, default=default, metavar="NAME", help=f"of {', '.join(names)}")
    add("--max-failed-share", type=float, default=0.1, help="of a system's items, by metric (default: %(default)s)")
    add(
        "--workers",
        type=int,
        default=available_cores(),
        help="scoring processes; 0: this one, but for PESQ and DNSMOS, which can crash (default: all cores, "
        "%(default)s); models get the cores left, or one",
    )
    add("--device", default="auto", help="auto, cpu or cuda: where models run (default: %(default)s)")
    add("--dnsmos", type=Path, metavar="FILE", help="sig_bak_ovr.onnx of DNSMOS P.835, for the dnsmos metrics")
    add("--squim", type=Path, metavar="FILE", help="weights of torchaudio's SQUIM_OBJECTIVE, for the squim metrics")
    add("--no-cost", action="store_true", help="do not measure what the models cost (MACs, real-time factor, ...)")
    add("--save-audio", type=int, default=0, metavar="N", help="write the first N items as wav, of every system")
