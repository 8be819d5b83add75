"""Writing result files so that a reader never sees half of one."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file in UTF-8, as `write_bytes` does."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes a file beside its final name and moves it there; parents are created.

    Raises:
        ValueError: naming the file, if it cannot be written (disk full, no permission); the old file is intact.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if partial.exists():
            partial.unlink()
        raise ValueError(f"{path}: could not be written ({error.strerror or error})") from None
    return path
