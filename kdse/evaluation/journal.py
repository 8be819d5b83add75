"""`Journal`: scores as they come in, one line each, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from kdse.errors import UserError
from kdse.machine.files import write_text
from kdse.metrics.registry import Scores

FILE = "scores.jsonl"


class Key(NamedTuple):
    """What a score is a function of, besides the settings.

    system: what made the estimate: digest of a model's weights and device, or of the estimate's own samples.
    group, name: the item. audio: checksum of its noisy and clean samples.
    """

    system: str
    group: str
    name: str
    audio: int


class Journal:
    """An append-only file of scores. Nothing that failed is kept: it is tried again.

    A line that a kill cut short is dropped, all before it count. One process writes at a time.

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
        self._scores: dict[Key, Scores] = {}
        header = json.dumps({"kdse_scores": 1, "settings": settings}, sort_keys=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(f"--out {folder}: another `kdse evaluate` is writing there; wait for it") from None
        except OSError as error:
            raise UserError(f"--out {folder}: cannot be written to ({error.strerror or error})") from None
        try:
            self._open(folder, header, settings, replace)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, folder: Path, header: str, settings: dict[str, Any], replace: bool) -> None:
        lines = self._read()
        if lines and lines[0] != header and not replace:
            raise UserError(
                f"--out {folder}: holds scores of other settings ({_difference(lines[0], settings)}); give another "
                "--out, or --overwrite"
            )
        kept = lines if lines and lines[0] == header else [header]
        for line in kept[1:]:
            entry = json.loads(line)
            self._scores[Key(*entry["key"])] = Scores(entry["values"], {})
        write_text(self.path, "".join(f"{line}\n" for line in kept))  # without a line that was cut short
        try:
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise UserError(f"{self.path}: could not be written ({error.strerror or error})") from None

    def _read(self) -> list[str]:
        """The header and all whole entries."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{self.path}: not readable ({error.strerror or error})") from None
        lines: list[str] = []
        for line in text.split("\n")[:-1]:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if _is_score(entry) if lines else isinstance(entry, dict) and "kdse_scores" in entry:
                lines.append(line)
        return lines

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
        line = json.dumps({"key": list(key), "values": scores.values})
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path}: could not be written ({error.strerror or error}); free space and run the same command "
                f"again: {len(self._scores)} scores are kept"
            ) from None
        self._scores[key] = scores

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # (a full disk has been reported by put)
        finally:
            self._lock.release()


def _is_score(entry: object) -> bool:
    """Whether a line is what `Journal.put` writes: a damaged one is computed again."""
    if not isinstance(entry, dict):
        return False
    key, values = entry.get("key"), entry.get("values")
    return (
        isinstance(key, list)
        and [type(part) for part in key] == [str, str, str, int]
        and isinstance(values, dict)
        and all(isinstance(value, (int, float)) for value in values.values())
    )


def _difference(header: str, settings: dict[str, Any]) -> str:
    """The first setting that differs, for a message."""
    stored = json.loads(header).get("settings", {})
    wanted = json.loads(json.dumps(settings))
    for name in [*wanted, *stored]:
        if stored.get(name) != wanted.get(name):
            return name
    return "their format"
