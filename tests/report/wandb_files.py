"""What an offline W&B run left on disk, read from its transaction log and its files; shared by tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


class OfflineRun:
    """One start of a W&B run.

    id, project, exit_code; config; rows: the history, each a dictionary of keys (nested ones as dictionaries);
    artifacts: file name to (path inside the artifact, path on this machine) of every table and its media.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.artifacts: list[dict[str, Path]] = []
        self.exit_code: int | None = None
        (log,) = folder.glob("run-*.wandb")
        for record in _records(log):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id, self.project, self.job_type = record.run.run_id, record.run.project, record.run.job_type
                self.name, self.notes, self.resume = record.run.display_name, record.run.notes, record.run.resume
                _merge(self.config, record.run.config.update)
            elif kind == "config":
                _merge(self.config, record.config.update)
            elif kind == "summary":
                _merge(self.summary, record.summary.update)
            elif kind == "history":
                self.rows.append(_merge({}, record.history.item))
            elif kind == "artifact":
                contents = record.artifact.manifest.contents
                self.artifacts.append({entry.path: Path(entry.local_path) for entry in contents})
            elif kind == "exit":
                self.exit_code = record.exit.exit_code

    def logged(self, key: str) -> list[dict[str, Any]]:
        """The rows that hold a key."""
        return [row for row in self.rows if key in row]

    def file(self, value: dict[str, Any]) -> Path:
        """The file of a logged picture, sound or table."""
        return self.folder / "files" / value["path"]

    def table(self, value: dict[str, Any]) -> list[dict[str, Any]]:
        """A logged table without media as dictionaries, one a row."""
        content = json.loads(self.file(value).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

    def table_with_media(self, key: str) -> tuple[list[dict[str, Any]], dict[str, Path]]:
        """The table of an artifact, one dictionary a row, and the files its media refer to."""
        (files,) = [files for files in self.artifacts if f"{key}.table.json" in files]
        content = json.loads(files[f"{key}.table.json"].read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]], files


def starts(folder: Path) -> list[OfflineRun]:
    """Every offline start below a folder, in order of time."""
    found = [path for path in folder.glob("wandb/offline-run-*") if not path.is_symlink()]
    return [OfflineRun(path) for path in sorted(found, key=lambda path: path.stat().st_ctime_ns)]


def _merge(into: dict[str, Any], items: Any) -> dict[str, Any]:
    for item in items:
        path = list(item.nested_key) or [item.key]
        place = into
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = json.loads(item.value_json)
    return into


def _records(path: Path) -> Iterator[Any]:
    """A .wandb file: a LevelDB log (blocks of 32 KiB; records in chunks of crc, length, kind) of protobuf messages."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        position += HEADER
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
