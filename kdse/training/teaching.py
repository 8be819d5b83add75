"""Runs teachers over a fixed set of items, piece by piece, and writes what they answer (`kdse.data.taught_set`).

A piece is a job of its own and always made in the same way, in one thread: whatever the number of processes, and
however often the work is killed and goes on, the files are the same to the bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdse.data.batch import Item, make_item
from kdse.data.corpus.corpora import Corpus
from kdse.data.corpus.pool import as_they_come
from kdse.data.position import Batches
from kdse.data.taught_set import DESCRIPTION, TaughtSet, fetch, imprint
from kdse.deploy.chunks import CrossFade
from kdse.errors import UserError, some
from kdse.machine.files import write_text
from kdse.models.aligned import Aligned
from kdse.models.base import SpeechModel
from kdse.models.checkpoint import fingerprint
from kdse.taps import TapRecorder, resolve_taps

#: Items that a teacher hears at once, and the longest recording that it hears as a whole; longer ones come in
#: cross-faded chunks of that length. Our choices: both are bounded by memory.
TOGETHER, CHUNK_SECONDS, FADE_SECONDS = 8, 60.0, 1.0
LOCK = ".lock"


@dataclass(frozen=True)
class Source:
    """A teacher, and how it is opened anywhere; delay in samples at its own rate and level, None to be measured."""

    name: str
    opened: Callable[[], SpeechModel]
    delay_samples: int | None = None
    gain: float | None = None
    random: bool = False  # it was named by a class alone


class Recordings(Dataset[Item]):
    """Whole recordings of a folder as items (0, place)."""

    def __init__(self, corpus: Corpus, sample_rate_hz: int) -> None:
        self.corpus, self.sample_rate_hz = corpus, sample_rate_hz

    def __getitem__(self, key: tuple[int, int]) -> Item:
        noisy = self.corpus.read(key[1], self.sample_rate_hz)
        return make_item(noisy, None, float("nan"), self.corpus.paths[key[1]], key[1])


def training_items(module: Any, epochs: int) -> tuple[Any, dict[str, Any]]:
    """The training items of a data module, and what a description says of them.

    Raises:
        ValueError: if its training items are no pure function of epoch and index.
    """
    module.prepare_data()
    module.setup("fit")
    loader = module.train_dataloader()
    batches = getattr(loader, "batch_sampler", None)
    if not isinstance(batches, Batches) or not hasattr(module, "taught_by"):
        raise UserError(
            f"--config: the items of {type(module).__name__} are no function of epoch and index, so nothing can be "
            "taught of them before; use a subclass of kdse.data.position.ResumableData"
        )
    items = loader.dataset
    (first,) = fetch(items, [(0, 0)])
    return items, {
        "settings": json.loads(json.dumps(module.taught_by(items))),
        "sample_rate_hz": int(module.sample_rate_hz),
        "items": batches.steps * batches.batch_size,
        "epochs": epochs,
        "samples": first["noisy"].shape[-1],
    }


def recorded_items(corpus: Corpus, names: list[str], sample_rate_hz: int) -> tuple[Recordings, dict[str, Any]]:
    """The recordings of a folder, and what a description says of them."""
    lengths = corpus.lengths(sample_rate_hz).tolist()
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"--folder {corpus.root}: holds several files called {some(doubled)}")
    return Recordings(corpus, sample_rate_hz), {
        "settings": {"sample_rate_hz": sample_rate_hz}, "sample_rate_hz": sample_rate_hz, "items": len(lengths),
        "epochs": 1, "samples": lengths, "names": names,
    }  # fmt: skip


@dataclass
class Teaching:
    """Teachers and what they are to teach on: it makes one piece of a set after another.

    items: by key. about: the description of the set, without teachers and taps until `prepare` has completed it.
    """

    folder: Path
    items: Any
    about: dict[str, Any]
    sources: list[Source]
    taps: tuple[str, ...]
    device: str

    def __post_init__(self) -> None:
        self.models = [self._open(source) for source in self.sources]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "models"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    def _open(self, source: Source) -> Aligned:
        rate = self.about["sample_rate_hz"]
        model = Aligned(source.opened(), rate, delay_samples=source.delay_samples, gain=source.gain)
        return model.eval().requires_grad_(False).to(self.device)

    # --- before it starts ---

    def prepare(self, known: Mapping[str, Any] | None) -> None:
        """Completes the description: who teaches, corrected by how much, and the taps.

        Args:
            known: the description of the same set that is already there; what was measured for it counts.

        Raises:
            ValueError: if a teacher cannot be measured, or has no such tap.
        """
        self.about = {"kdse_taught": 1, **self.about, "teachers": [], "taps": {}}
        earlier = {teacher["sha256"]: teacher for teacher in (known or {}).get("teachers", ())}
        for i, (source, model) in enumerate(zip(self.sources, self.models, strict=True)):
            inner = model.inner
            about = type(inner).__module__, type(inner).__qualname__, inner.init_args, fingerprint(inner)
            made_of = [*about, source.delay_samples, source.gain]
            digest = hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()
            found = {**(earlier.get(digest) or _measured(source, model)), "name": source.name, "sha256": digest}
            self.about["teachers"].append(found)
            self.sources[i] = replace(source, delay_samples=found["delay_samples"], gain=found["gain"])
        self.models = [self._open(source) for source in self.sources]
        if self.taps:
            known = self.models[0].taps()
            if unknown := sorted(set(self.taps) - known.keys()):
                has = ", ".join(known) or "none"
                raise UserError(f"--taps {unknown[0]}: {self.sources[0].name} has no tap of this name; it has {has}")
            taps = resolve_taps(self.models[0], list(self.taps))
            item = self._heard([0], TaughtSet(self.folder, self.about))
            for name, activation in self._run(self.models[0], item)[1].items():
                self.about["taps"][name] = {"shape": list(activation.shape[1:]), "group": taps[name].group}

    def seconds_an_item(self, taught: TaughtSet) -> float:
        """Measured on a few items, the second time that they are run."""
        numbers = next(groups(taught, 0))
        for _ in range(2):
            started = time.perf_counter()
            self._answers(numbers, taught)
        return (time.perf_counter() - started) / len(numbers)

    # --- the work ---

    def piece(self, number: int) -> int:
        """Makes and writes a piece; returns its number."""
        taught = TaughtSet(self.folder, self.about)
        outputs: list[np.ndarray] = []
        noisy: list[float] = []
        taps: list[list[np.ndarray]] = [[] for _ in taught.taps]
        for numbers in groups(taught, number):
            waves, heard, activations = self._answers(numbers, taught)
            outputs += list(waves)
            noisy += heard
            for kept, activation in zip(taps, activations, strict=True):
                kept.append(activation)
        taught.write(number, outputs, noisy, [np.concatenate(kept) for kept in taps])
        return number

    def _heard(self, numbers: list[int], taught: TaughtSet) -> Tensor:
        items = fetch(self.items, [taught.key(number) for number in numbers])
        for number, item in zip(numbers, items, strict=True):
            if item["noisy"].shape[-1] != taught.lengths[number]:
                raise UserError(f"{item['name']}: has {item['noisy'].shape[-1]} samples, not {taught.lengths[number]}")
        return torch.stack([item["noisy"] for item in items])

    def _answers(self, numbers: list[int], taught: TaughtSet) -> tuple[np.ndarray, list[float], list[np.ndarray]]:
        """Outputs ``[B, T, N]`` of some items, the imprint of each input, and the taps ``[B, C, T, F]``."""
        noisy = self._heard(numbers, taught)
        taps: dict[str, Tensor] = {}
        outputs = []
        for model, name in zip(self.models, taught.teachers, strict=True):
            wave, activations = self._run(model, noisy)
            taps = taps or activations
            if wave.shape != noisy.shape or not wave.isfinite().all():
                what = "is not finite" if wave.shape == noisy.shape else f"has the shape {[*wave.shape]}"
                raise UserError(f"{name}: what it makes of item {numbers[0]} ({[*noisy.shape]}) {what}")
            outputs.append(wave)
        halves = [taps[name].half() for name in taught.taps]
        for name, half in zip(taught.taps, halves, strict=True):
            if not half.isfinite().all():
                raise UserError(f"--taps {name}: has values beyond half precision (65504) in item {numbers[0]}")
        return (
            torch.stack(outputs, 1).numpy(),
            [imprint(wave) for wave in noisy],
            [half.numpy() for half in halves],
        )

    @torch.no_grad()
    def _run(self, model: SpeechModel, noisy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rate = self.about["sample_rate_hz"]
        if "names" in self.about and noisy.shape[-1] > CHUNK_SECONDS * rate:
            fade = CrossFade(model, round(CHUNK_SECONDS * rate), round(FADE_SECONDS * rate))
            return torch.cat([fade.push(noisy), fade.flush()], 1).float(), {}
        taps = resolve_taps(model, list(self.taps)) if self.taps else {}
        recorder = TapRecorder(model, taps)
        with recorder:
            wave = model(noisy.to(self.device)).waveform
        return wave.float().cpu(), {name: tap.float().cpu() for name, tap in recorder.activations().items()}


def groups(taught: TaughtSet, piece: int) -> Iterator[list[int]]:
    """Items of a piece that are run at once: neighbours of equal length."""
    group: list[int] = []
    for number in taught.items_of(piece):
        if group and (len(group) == TOGETHER or taught.lengths[number] != taught.lengths[group[0]]):
            yield group
            group = []
        group.append(number)
    yield group


def _measured(source: Source, model: Aligned) -> dict[str, Any]:
    """Delay and level of a teacher, and the correlation that they were measured with (None where both are given)."""
    try:
        found = model.measure()
    except UserError as error:
        raise UserError(
            f"{source.name}: {error}; or give --delay-samples and --gain: 0 and 1 if it is in time and at the level of "
            "speech"
        ) from None
    return {
        "delay_samples": int(found.delay_samples),
        "gain": float(found.gain),
        "correlation": None if math.isnan(found.correlation) else float(found.correlation),
    }


# --- the folder ---


def known_set(folder: Path, overwrite: bool) -> dict[str, Any] | None:
    """The description of a set to go on with; None of a new or empty folder, and of a set that is to be replaced.

    Raises:
        ValueError: if the folder holds something else.
    """
    if (folder / DESCRIPTION).exists():
        return None if overwrite else TaughtSet(folder).about
    if folder.exists() and not (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
        raise UserError(f"--out {folder}: is not empty and holds no taught set; give another folder")
    return None


def check_same(folder: Path, about: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuses to go on with a set of other items or teachers: names what differs. It may get more epochs."""
    stored, wanted = ({**d.get("settings", {}), **d} for d in (known, json.loads(json.dumps(dict(about)))))
    for name in wanted:
        one, other = stored.get(name), wanted[name]
        if name == "teachers":
            one, other = ([f"{t['name']} {t['sha256'][:8]}" for t in side] for side in (one or [], other))
        fewer = name == "epochs" and other < one
        if name != "settings" and (fewer or (name != "epochs" and one != other)):
            raise UserError(
                f"--out {folder}: holds a set with other {name} ({_short(one)}, not {_short(other)}); give another "
                "--out, or --overwrite"
            )


def _short(value: Any) -> str:
    return f"{value!r:.60}"


@contextmanager
def begun(folder: Path, about: Mapping[str, Any], overwrite: bool) -> Iterator[TaughtSet]:
    """The set in its folder, locked, with its description written and what killed processes left taken away."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            if overwrite:  # (pieces first: without the description nobody would know what they are)
                for file in sorted(folder.glob("[0-9]*.npy")):
                    file.unlink()
            for file in folder.glob(".*.partial"):
                file.unlink()
            write_text(folder / DESCRIPTION, json.dumps(about, indent=1) + "\n")
            yield TaughtSet(folder)
    except Timeout:
        raise UserError(f"--out {folder}: another `kdse teach` is writing there; wait for it") from None
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written to ({error.strerror or error})") from None


def check_space(folder: Path, needed: int) -> None:
    """Refuses to begin what will not fit on the disk."""
    there = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise UserError(f"--out {folder}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free")


def run(teaching: Teaching, pieces: list[int], workers: int) -> Iterator[int]:
    """Makes pieces in processes (0: in this one), and yields the number of each that is finished."""
    if workers == 0:
        with one_thread():
            yield from map(teaching.piece, pieces)
        return
    with tempfile.TemporaryDirectory(prefix="kdse-teach-") as scratch:
        file = Path(scratch) / "teaching.pickle"
        file.write_bytes(pickle.dumps(teaching))
        yield from as_they_come(_piece, ((str(file), piece) for piece in pieces), workers)


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes in one thread meanwhile: sums in several are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _piece(file: str, number: int) -> int:
    """As `Teaching.piece`, in a process of its own."""
    return _opened(file).piece(number)


@lru_cache(maxsize=1)
def _opened(file: str) -> Teaching:
    torch.set_num_threads(1)
    teaching: Teaching = pickle.loads(Path(file).read_bytes())  # (of this command's own, in a folder of its own)
    return teaching
