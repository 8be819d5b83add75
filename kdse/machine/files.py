"""Writing result files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from kdse.errors import UserError


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file in UTF-8, as `write_bytes` does; bytes of names that are not UTF-8 appear as ``\\udce9``."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def fitting(name: str, most: int = 200) -> str:
    """A name of at most ``most`` bytes: its beginning and a checksum, if it is longer."""
    raw = os.fsencode(name)
    return name if len(raw) <= most else f"{raw[: most - 17].decode('utf-8', 'ignore')}-{_digest(name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:16]


def beside(path: Path) -> Path:
    """Where a file is written before it gets its name: in the same folder, by a name that is never too long."""
    return path.with_name(f".{_digest(path.name)}.{os.getpid()}.partial")


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Writes a file beside its final name and moves it there; parents are created.

    Raises:
        ValueError: naming the file, if it cannot be written (disk full, no permission); the old file is intact.
    """
    path = Path(path)
    partial = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"{path}: could not be written ({error.strerror or error})") from None
    return path
