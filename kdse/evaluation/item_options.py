"""Options that say which items are scored: as flags, as a record in a result, and as a test set."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from kdse.data.shards import is_remote

    record = {name: getattr(arguments, name) for name in vars(_defaults())}
    if not (record["paired"] or record["data_config"] or record["synthetic"]):
        record["corpus"] = record["corpus"] or os.environ.get("KDSE_CORPUS")
    for name in ("corpus", "data_config"):
        if record[name] and not is_remote(record[name]):
            record[name] = str(Path(record[name]).absolute())
    record["paired"] = record["paired"] and [str(path.absolute()) for path in record["paired"]]
    return record


def held_out_of(record: dict[str, Any]) -> HeldOut:
    """The test set of a record.

    Raises:
        ValueError: naming the flag, for anything missing or wrong.
    """
    from kdse.evaluation import held_out

    options = argparse.Namespace(**{**vars(_defaults()), **record})
    _check_used(options)
    if options.paired:
        noisy, clean = options.paired
        return held_out.paired(Path(noisy), Path(clean), options.sample_rate_hz)
    if options.data_config:
        return held_out.from_config(Path(options.data_config))
    if options.items < 1 or not 0 < options.seconds < math.inf:
        raise ValueError("--items and --seconds must be positive")
    for flag, values in (("--snr-db", options.snr_db), ("--range", options.range or [])):
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"{flag}: {' '.join(map(str, values))} are not all finite numbers")
    if not options.snr_db and options.range is None:
        raise ValueError("--snr-db: give at least one SNR, or --range")
    if options.range is not None and options.range[0] > options.range[1]:
        raise ValueError(f"--range {options.range[0]:g} {options.range[1]:g}: give the lower end first")
    if not options.synthetic and options.corpus is None:
        raise ValueError("no test items: give --paired, --corpus, --synthetic or --data-config, or set KDSE_CORPUS")
    from kdse.data import Mixtures, SyntheticCorpus

    common = {name: getattr(options, name) for name in ("snr_definition", "sample_rate_hz", "seed")}
    module = SyntheticCorpus(**common) if options.synthetic else Mixtures(root=options.corpus, **common)
    module.prepare_data()
    module.setup("test")
    return held_out.mixtures(module, options.snr_db, options.range, options.items, options.seconds)


def _check_used(options: argparse.Namespace) -> None:
    """Refuses flags that would do nothing: they are a mistake of who gave them."""
    source, used = "--corpus", tuple(vars(options))
    if options.paired:
        source, used = "--paired", ("paired", "sample_rate_hz", "corpus")
    elif options.data_config:
        source, used = "--data-config", ("data_config", "corpus")
    for name, default in vars(_defaults()).items():
        if name not in used and getattr(options, name) != default:
            raise ValueError(f"--{name.replace('_', '-')}: does not apply to {source}, which has its own; leave it out")


def _defaults() -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    add_item_options(parser)
    return parser.parse_args([])
