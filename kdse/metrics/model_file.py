"""Model files that metrics need: found, read once a process, and read again if the file changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdse.errors import UserError


def loaded(path: str, load: Callable[[str], Any], flag: str) -> Any:
    """What ``load(path)`` makes of a file.

    Raises:
        ValueError: naming the flag, if there is no such file or ``load`` raises one.
    """
    try:
        stamp = Path(path).stat()
    except OSError:
        raise UserError(f"{flag} {path}: no such file") from None
    if not Path(path).is_file():
        raise UserError(f"{flag} {path}: is not a file")
    return _load(load, path, stamp.st_mtime_ns, stamp.st_size)


@functools.lru_cache(maxsize=4)
def _load(load: Callable[[str], Any], path: str, *stamp: int) -> Any:
    return load(path)


def one_line(error: BaseException) -> str:
    """The first 150 characters of an error's message, on one line."""
    return " ".join(str(error).split())[:150] or type(error).__name__
