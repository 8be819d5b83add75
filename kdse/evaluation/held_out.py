"""Test items that `kdse evaluate` scores: pairs of files, mixtures of a corpus' test split, or a config's test set."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdse.errors import UserError
from kdse.machine.yaml_file import read_yaml
from kdse.run.config_mistakes import Config
from kdse.trust import build

if TYPE_CHECKING:
    from torch import Tensor

    from kdse.data.batch import Batch
    from kdse.data.mixtures import Mixtures


class Item(NamedTuple):
    """One test item: audio ``[N]``, its unique name within its set, and the input SNR (NaN if unknown)."""

    group: str
    name: str
    snr_db: float
    noisy: Tensor
    clean: Tensor

    def checksum(self) -> int:
        """Tells audio apart: CRC-32 of noisy and clean samples as float32."""
        return zlib.crc32(samples_of(self.clean), zlib.crc32(samples_of(self.noisy)))


def samples_of(wave: Tensor) -> bytes:
    """The samples of a waveform as float32."""
    return wave.detach().float().contiguous().numpy().tobytes()


@dataclass(frozen=True)
class HeldOut:
    """A test set that can be gone through once for every system; items are made when asked for."""

    items: int  # how many there are
    iterate: Callable[[], Iterator[Item]]  # starts a pass over them, always in the same order
    sample_rate_hz: int
    settings: dict[str, Any]  # what the set is made of, for the record
    names: tuple[str, ...] = ()  # of the items, where they are known before they are made
    _audio: dict[tuple[str, str], int] = field(default_factory=dict)  # checksums by group and name

    def __post_init__(self) -> None:
        if self.items < 1:
            raise UserError("the test set holds no items")

    def __len__(self) -> int:
        return self.items

    def __iter__(self) -> Iterator[Item]:
        """A pass over the items: the same audio in every pass, so that systems can be compared, and each item once.

        Raises:
            ValueError: naming the item, if it is not so.
        """
        seen: set[tuple[str, str]] = set()
        for item in self.iterate():
            key = (item.group, item.name)
            if key in seen:
                raise UserError(f"the test set has two items called {item.name!r}; give them different names")
            checksum = item.checksum()
            if self._audio.setdefault(key, checksum) != checksum:
                raise UserError(
                    f"the test set gives other audio as {item.name!r} in every pass, so systems cannot be compared on "
                    "it; make it a pure function of a seed"
                )
            seen.add(key)
            yield item


def paired(noisy: Path, clean: Path, sample_rate_hz: int) -> HeldOut:
    """Every pair of files in two folders, matched as `kdse.data.PairedFolders` does."""
    from kdse.data.file_pairs import find_pairs
    from kdse.data.whole_pairs import PairSet

    pairs = PairSet(find_pairs(noisy, clean, sample_rate_hz, ("--paired", "--paired")), sample_rate_hz)

    def iterate() -> Iterator[Item]:
        for index in range(len(pairs)):
            item = pairs[index]
            yield Item("", item["name"], float(item["snr_db"]), item["noisy"], item["clean"])

    settings = {"paired": {"noisy": str(noisy), "clean": str(clean)}}
    return HeldOut(len(pairs), iterate, sample_rate_hz, settings, tuple(pair.name for pair in pairs.pairs))


def mixtures(
    module: Mixtures, snr_db: Sequence[float], snr_range_db: Sequence[float] | None, items: int, seconds: float
) -> HeldOut:
    """Mixtures of the corpus' test split: ``items`` at each SNR, and as many in all with SNRs drawn from the range.

    The two are separate sets of the table: fixed SNRs (unnamed) and the range (named by it).
    """
    samples = round(seconds * module.sample_rate_hz)
    total = items * max(1, len(snr_db))
    sets = {}
    if snr_db:
        sets[""] = module.mixture_set("test", [float(v) for v in snr_db], samples, total, cycle_snr=True)
    if snr_range_db is not None:
        low, high = (float(v) for v in snr_range_db)
        sets[f"{low:g}..{high:g} dB"] = module.mixture_set("test", [low, high], samples, total, cycle_snr=False)

    def iterate() -> Iterator[Item]:
        for group, mixture_set in sets.items():
            for index in range(len(mixture_set)):
                item = mixture_set[index]
                snr = float(item["snr_db"]) if group == "" else math.nan  # a range is reported as one line
                yield Item(group, item["name"], snr, item["noisy"], item["clean"])

    settings = {
        "corpus": str(module.corpus_folder()), "snr_definition": module.snr_definition, "snr_db": list(snr_db),
        "range_db": None if snr_range_db is None else list(snr_range_db), "items_per_snr": items, "seconds": seconds,
        "seed": module.seed,
    }  # fmt: skip
    return HeldOut(sum(len(s) for s in sets.values()), iterate, module.sample_rate_hz, settings)


def from_config(path: Path, trust_code: bool = False) -> HeldOut:
    """The test set of a data module described in YAML: ``class_path`` and ``init_args``, alone or under ``data:``."""
    module, content = data_module([path], "--data-config", trust_code)
    return from_module(module, {"data_config": str(path), "data": content})


def data_module(
    files: Sequence[Path], flag: str, trust_code: bool = False, changes: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """The data module that YAML files describe, later ones over earlier ones, and its class_path and init_args.

    Without ``trust_code`` it is one that kdse ships: a file can be the config of somebody else's run.

    Args:
        files: each with ``class_path`` and ``init_args``, alone or under ``data:``.
        flag: that named them.
        trust_code: let them name any class.
        changes: arguments to replace, by name; None takes an argument away.
    """
    from lightning import LightningDataModule

    given, content = Config({"data": LightningDataModule}), None
    for path in files:
        content = read_yaml(path)
        content = content.get("data", content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or "class_path" not in {**given.values.get("data", {}), **content}:
            raise UserError(f"{flag} {path}: has no class_path (nor a `data:` section with one)")
        given.put(["data"], content, f"{flag} {path}")
    if changes is not None or len(files) > 1:
        for name, value in (changes or {}).items():
            if value is None:
                given.values["data"].pop(name, None)
            else:
                given.put(["data", name], value)
        arguments = dict(given.values["data"])
        content = {"class_path": arguments.pop("class_path"), "init_args": arguments}
    where = f"{flag} {' '.join(map(str, files))}: data"
    hint = " (its paths are relative to the current folder)"
    return build(content, LightningDataModule, where, trust_code, hint, given.mistake), content


def from_module(module: Any, settings: dict[str, Any]) -> HeldOut:
    """The test set of a data module."""
    module.prepare_data()
    module.setup("test")
    loader = module.test_dataloader()

    def iterate() -> Iterator[Item]:
        batch: Batch
        for batch in loader:
            if batch.get("clean") is None:
                raise UserError("the test set has no clean speech to score against; give labelled data")
            for i, name in enumerate(batch["name"]):
                n = int(batch["samples"][i])
                snr_db = float(batch["snr_db"][i]) if batch.get("snr_db") is not None else math.nan
                yield Item("", str(name), snr_db, batch["noisy"][i, :n], batch["clean"][i, :n])

    return HeldOut(len(loader.dataset), iterate, int(module.sample_rate_hz), settings)
