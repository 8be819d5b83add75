"""`Journal`: scores as they come in, one line each, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from kdse.errors import UserError
from kdse.machine.files import write_text
from kdse.metrics.registry import Scores

FILE = "scores.jsonl"


class Key(NamedTuple):
    """What a score is a function of, besides the settings."""

    system: str  # what made the estimate: digest of a model's weights and device, or of the estimate's own samples
    group: str
    name: str
    audio: int  # checksum of the item's noisy and clean samples


class Journal:
    """An append-only file of scores. Nothing that failed is kept: it is tried again.

    A line that a kill cut short is dropped, all before it count; ``damaged`` says how many others are no scores, which
    are computed again. One process writes at a time.

    Args:
        folder: of the evaluation; made if needed.
        settings: plain data that all scores depend on (items, metrics and their versions). A journal of other
            settings is refused, or replaced.
        replace: replace a journal of other settings.

    Raises:
        ValueError: if the folder holds scores of other settings, another process writes there, or it cannot be
            written to.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], replace: bool = False) -> None:
        from filelock import FileLock, Timeout

        self.path = folder / FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"--out {folder}: another `kdse evaluate` is writing there; wait for it") from None
        except OSError as error:
            raise UserError(f"--out {folder}: cannot be written to ({error.strerror or error})") from None
        try:
            self._open(settings, replace)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, settings: dict[str, Any], replace: bool) -> None:
        header = json.dumps({"kdse_scores": 1, "settings": settings}, sort_keys=True)
        first, *lines = self._read() or [""]
        stored = _settings(first)
        if first != header:
            if stored is not None and not replace:
                raise UserError(
                    f"--out {self.path.parent}: holds scores of other settings ({_difference(stored, settings)}); give "
                    "another --out, or --overwrite"
                )
            lines = []
        entries = {line: entry for line in lines if (entry := _entry(line)) is not None}
        self.damaged = len(set(lines)) - len(entries)
        self._scores = dict(entries.values())
        write_text(self.path, "".join(f"{line}\n" for line in [header, *entries]))
        try:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise UserError(f"{self.path}: could not be written ({error.strerror or error})") from None

    def _read(self) -> list[str]:
        """The lines of the file, without one that was cut short."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self.path}: not readable ({error.strerror or error})") from None

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, key: Key) -> Scores | None:
        """The scores of an item, if they are known."""
        return self._scores.get(key)

    def put(self, key: Key, scores: Scores) -> None:
        """Keeps the scores of an item, unless something failed.

        Raises:
            ValueError: if the file cannot be written; what it held is kept.
        """
        if scores.failures:
            return
        try:
            self._file.write(json.dumps({"key": list(key), "values": scores.values, "pieces": scores.pieces}) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: could not be written ({error.strerror or error}); free space and run the same command "
                f"again: {len(self._scores)} scores are kept"
            ) from None
        self._scores[key] = scores

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):  # (a full disk has been reported by put)
            self._file.close()
        self._lock.release()


def _settings(line: str) -> dict[str, Any] | None:
    """The settings in a journal's first line; None if it is something else's."""
    try:
        content = json.loads(line)
        return content["settings"] if "kdse_scores" in content else None
    except (ValueError, TypeError, KeyError):
        return None


def _entry(line: str) -> tuple[Key, Scores] | None:
    """The scores on a line; None if it is damaged: they are computed again."""
    try:
        entry = json.loads(line)
        values = {metric: float(value) for metric, value in entry["values"].items()}
        return Key(*entry["key"]), Scores(values, {}, {metric: int(n) for metric, n in entry["pieces"].items()})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _difference(stored: dict[str, Any], settings: dict[str, Any]) -> str:
    """The first setting that differs, for a message."""
    wanted = json.loads(json.dumps(settings))
    return next((name for name in [*wanted, *stored] if stored.get(name) != wanted.get(name)), "their format")
