"""Where kdse keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path

from kdse.errors import UserError


def cache_root(given: str | Path | None = None) -> Path:
    """``given``, else the environment variable KDSE_CACHE, else ``~/.cache/kdse``; without a home a ValueError."""
    try:
        return Path(given or os.environ.get("KDSE_CACHE") or Path.home() / ".cache" / "kdse").expanduser()
    except RuntimeError:
        raise UserError("no home folder to keep a cache in; set the environment variable KDSE_CACHE") from None
