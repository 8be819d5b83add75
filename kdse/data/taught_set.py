"""`TaughtSet`: what teachers made of a fixed set of items, written once by `kdse teach` and read by every training.

A folder with a description and pieces. Each piece has its waveforms as 16-bit numbers in a file that is mapped into
memory, not FLAC: twice the disk, and an item costs a training step next to nothing, where decoding would cost more than
the mixing of it. Every item of every teacher has a scale of its own, so that nothing clips and quiet ones keep 16 bits.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdse.data.batch import Item
from kdse.errors import UserError, some
from kdse.machine.files import write_bytes
from kdse.seeding import run_seed

FLAG = "--data.taught_set"
DESCRIPTION = "taught.json"
#: What a description has: settings of the data, items of an epoch, samples of each (or of every) item, teachers, taps.
KEYS = {"settings", "sample_rate_hz", "items", "epochs", "samples", "teachers", "taps"}
#: Samples of a piece (66 s at 16 kHz, 2 MB a teacher): what a kill can cost at most, a process. Our choice.
PIECE_SAMPLES = 1 << 20
LARGEST = 32767
#: Items that are made again when training begins, and how far their imprints may differ, as a share of their RMS, from
#: those of what the teachers heard. Our choices: a mixer of another version rounds differently, other audio is far off.
LOOKED_AT, TOLERANCE = 4, 1e-3


def imprint(noisy: Tensor) -> float:
    """A number that tells audio ``[N]`` apart: its product with fixed noise, about as large as its RMS."""
    noise = np.random.Generator(np.random.Philox(0)).standard_normal(noisy.shape[-1], dtype=np.float32)
    return float(noisy.double() @ torch.from_numpy(noise).double()) / max(1, noisy.shape[-1]) ** 0.5


def fetch(items: Any, keys: Sequence[Any]) -> list[Item]:
    """The items of some keys, at once where a data set can do that."""
    at_once = getattr(items, "__getitems__", None)
    return [items[key] for key in keys] if at_once is None else list(at_once(list(keys)))


class TaughtSet:
    """A set on disk, complete or not.

    Args:
        folder: with its description and pieces.
        description: of a set that is to be written; None reads that of the folder.

    Raises:
        ValueError: if the folder holds no set.
    """

    def __init__(self, folder: str | Path, description: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder)
        self.about = dict(description or _description(self.folder))
        self.items = int(self.about["items"])
        self.epochs = int(self.about["epochs"])
        #: Samples of each item of all epochs, one after another.
        self.lengths = np.broadcast_to(np.asarray(self.about["samples"], dtype=np.int64), (len(self),))
        ends = np.cumsum(self.lengths)
        self.firsts = [0]  # item of each piece
        begin = 0
        while self.firsts[-1] < len(self):
            last = int(np.searchsorted(ends, begin + PIECE_SAMPLES, side="right"))
            self.firsts.append(max(last, self.firsts[-1] + 1))
            begin = int(ends[self.firsts[-1] - 1])
        self.firsts.pop()
        self._starts = ends - self.lengths
        self._mapped: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}  # (another process maps the files itself)

    def __len__(self) -> int:
        return self.items * self.epochs

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers, in the order of their outputs."""
        return [teacher["name"] for teacher in self.about["teachers"]]

    @property
    def of_files(self) -> bool:
        """Whether its items are whole recordings that are found by name, not training items found by key."""
        return "names" in self.about

    @property
    def taps(self) -> dict[str, Any]:
        """Taps that were stored, name to ``{shape: [C, T, F], group}``."""
        return dict(self.about["taps"])

    # --- pieces ---

    @property
    def pieces(self) -> int:
        return len(self.firsts)

    def items_of(self, piece: int) -> range:
        """Numbers of the items of a piece."""
        return range(self.firsts[piece], [*self.firsts, len(self)][piece + 1])

    def shapes(self, piece: int) -> dict[Path, tuple[int, ...]]:
        """The files of a piece, with the shapes of their arrays; the waveforms are the last that is written."""
        items, count = self.items_of(piece), len(self.teachers)
        name = str(self.folder / f"{piece:06d}")
        taps = {Path(f"{name}.tap{i}.npy"): (len(items), *tap["shape"]) for i, tap in enumerate(self.taps.values())}
        samples = int(self.lengths[items.start : items.stop].sum())
        return {**taps, Path(f"{name}.levels.npy"): (count + 1, len(items)), Path(f"{name}.npy"): (count, samples)}

    def finished(self, piece: int) -> bool:
        """Whether a piece is there as a whole."""
        try:
            return all(np.load(file, "r").shape == shape for file, shape in self.shapes(piece).items())
        except (OSError, ValueError):
            return False

    def write(self, piece: int, outputs: Sequence[np.ndarray], noisy: Sequence[float], taps: Sequence[Any]) -> None:
        """Writes a piece.

        Args:
            piece: its number.
            outputs: what the teachers made of each of its items, ``[T, N]``, finite.
            noisy: `imprint` of what they heard, of each item.
            taps: arrays of all its items ``[n, C, T, F]``, one for each tap.
        """
        scales = np.stack([np.abs(output).max(1, initial=0) for output in outputs], 1).astype(np.float32)
        waves = [_rounded(output, scale) for output, scale in zip(outputs, scales.T, strict=True)]
        levels = np.concatenate([scales, np.asarray(noisy, dtype=np.float32)[None]])
        arrays = [*taps, levels, np.concatenate(waves, 1)]
        for (file, shape), array in zip(self.shapes(piece).items(), arrays, strict=True):
            assert array.shape == shape, f"{file}: {array.shape} is not {shape}"
            content = io.BytesIO()
            np.save(content, array)
            write_bytes(file, content.getvalue())

    def bytes_of(self, piece: int) -> int:
        """Size of a piece in bytes, without the headers of its files."""
        *taps, levels, waves = self.shapes(piece).values()
        return 4 * levels[0] * levels[1] + 2 * (waves[0] * waves[1] + sum(int(np.prod(shape)) for shape in taps))

    def require_complete(self) -> TaughtSet:
        """This set, if all of it is there; a ValueError otherwise."""
        if missing := sum(not self.finished(piece) for piece in range(self.pieces)):
            raise UserError(
                f"{FLAG} {self.folder}: is not complete ({missing} of {self.pieces} pieces are missing or damaged); "
                "run the same `kdse teach` again, it goes on"
            )
        return self

    # --- reading ---

    def _array(self, file: str) -> np.ndarray:
        if file not in self._mapped:
            self._mapped[file] = np.load(file, "r")
        return self._mapped[file]

    def _place(self, item: int) -> tuple[str, int]:
        piece = bisect_right(self.firsts, item) - 1
        return str(self.folder / f"{piece:06d}"), self.firsts[piece]

    def wave(self, item: int, start: int = 0, stop: int | None = None) -> Tensor:
        """What was taught at samples ``[start, stop)`` of an item: ``[N]``, or ``[T, N]`` of several teachers."""
        name, first = self._place(item)
        offset = int(self._starts[item] - self._starts[first])
        length = int(self.lengths[item])
        stop = length if stop is None else min(stop, length)
        scales = self._array(f"{name}.levels.npy")[:-1, item - first, None] / LARGEST
        wave = torch.from_numpy(self._array(f"{name}.npy")[:, offset + min(start, stop) : offset + stop] * scales)
        return wave[0] if len(wave) == 1 else wave

    def imprint(self, item: int) -> float:
        """That of what the teachers heard."""
        name, first = self._place(item)
        return float(self._array(f"{name}.levels.npy")[-1, item - first])

    def activations(self, item: int) -> dict[str, Tensor]:
        """The stored taps of an item, name to half-precision ``[C, T, F]``."""
        name, first = self._place(item)
        arrays = (self._array(f"{name}.tap{i}.npy") for i in range(len(self.taps)))
        return {tap: torch.from_numpy(array[item - first].copy()) for tap, array in zip(self.taps, arrays, strict=True)}

    # --- training ---

    def require_same(self, settings: Mapping[str, Any]) -> None:
        """Refuses a run whose training items depend on other settings than this set's: names the first that differs."""
        stored, wanted = self.about["settings"], json.loads(json.dumps(dict(settings)))
        for name in [*wanted, *(name for name in stored if name not in wanted)]:
            if stored.get(name) == wanted.get(name):
                continue
            if name == "recordings":
                what = "was taught on other recordings (names or lengths of speech, noise or rooms differ)"
            else:
                what = f"was taught with --data.{name} {stored.get(name)}, and this run has {wanted.get(name)}"
            raise UserError(f"{FLAG} {self.folder}: {what}; give the same data, or run `kdse teach` on this")

    def key(self, number: int) -> tuple[int, int]:
        """The key of the item at a place of a run that goes through the set again and again."""
        return divmod(number % len(self), self.items)


class TaughtItems(Dataset[Item]):
    """Training items with what was taught of them: ``taught``, and ``taught_taps`` where taps were stored.

    Raises:
        ValueError: if they are not the items that the teachers heard.
    """

    def __init__(self, items: Any, taught: TaughtSet) -> None:
        self.items, self.taught = items, taught
        for number in sorted({round(i * (len(taught) - 1) / (LOOKED_AT - 1)) for i in range(LOOKED_AT)}):
            (item,) = fetch(items, [taught.key(number)])
            noisy = item["noisy"]
            most = TOLERANCE * float(noisy.square().mean().sqrt())
            if noisy.shape[-1] != taught.lengths[number] or abs(imprint(noisy) - taught.imprint(number)) > most:
                raise UserError(
                    f"{FLAG} {taught.folder}: was taught on other audio than this run's (item {item['name']} differs); "
                    "run `kdse teach` on this"
                )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Item]:
        items = fetch(self.items, keys)
        for (epoch, index), item in zip(keys, items, strict=True):
            number = epoch * self.taught.items + index
            item["taught"] = self.taught.wave(number)
            if self.taught.taps:
                item["taught_taps"] = self.taught.activations(number)
        return items


class TaughtFiles(NamedTuple):
    """The items of a set of whole recordings that belong to a data module's own, by place."""

    taught: TaughtSet
    items: list[int]

    def read(self, place: int, sample_rate_hz: int, start: int, stop: int) -> Tensor:
        """What was taught at samples ``[start, stop)`` of a recording."""
        return self.taught.wave(self.items[place], start, stop)


def find_recordings(
    folder: str | Path, recordings: Sequence[tuple[str, int]], sample_rate_hz: int, required: bool = True
) -> TaughtFiles | None:
    """What was taught of recordings (relative name without extension, samples), in a set of `kdse teach --folder`.

    None if the set is of training items instead, or some are missing and that is allowed.

    Raises:
        ValueError: for recordings that the set lacks, or has with another length or rate.
    """
    taught = TaughtSet(folder)
    if not taught.of_files:
        return None
    taught.require_complete()
    places = {name: place for place, name in enumerate(taught.about["names"])}
    missing = [name for name, _ in recordings if name not in places]
    if missing and not required:
        return None
    if missing:
        raise UserError(
            f"{FLAG} {folder}: holds nothing for {some(missing)}; run `kdse teach --folder` on these recordings"
        )
    taught.require_same({"sample_rate_hz": sample_rate_hz})
    items = [places[name] for name, _ in recordings]
    for (name, samples), item in zip(recordings, items, strict=True):
        if samples != taught.lengths[item]:
            raise UserError(
                f"{FLAG} {folder}: {name} had {taught.lengths[item]} samples and has {samples}; run `kdse teach` on "
                "these recordings"
            )
    return TaughtFiles(taught, items)


def data_seed(seed: int | None, taught_set: str | None) -> int:
    """The seed of a data module's items: given, else that of its taught set, else the run's.

    So runs with other seeds of their own share a set.
    """
    stored = None if taught_set is None else TaughtSet(taught_set).about["settings"].get("seed")
    return seed if seed is not None else run_seed() if stored is None else int(stored)


def _rounded(output: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``[T, N]`` in 16 bits, of which the largest number is each row's scale ``[T]``."""
    scale = np.where(scale > 0, scale, 1).astype(np.float64)
    return np.rint(output / scale[:, None] * LARGEST).astype(np.int16)


def _description(folder: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{FLAG} {folder}: holds no taught set ({DESCRIPTION}); make one by `kdse teach`") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable ({error})") from None
    if not isinstance(about, dict) or about.get("kdse_taught") != 1 or not about.keys() >= KEYS:
        raise UserError(f"{file}: is not the description of a taught set of this version; run `kdse teach` again")
    return about
