"""What a run folder of `kdse fit` says of a run, read without importing what trains it."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any


def result(folder: Path) -> dict[str, Any] | None:
    """``result.json`` of a run that has ended; None for one that has not."""
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("state") == "finished" else None


def validations(folder: Path) -> list[dict[str, Any]]:
    """The validations of a run in the order of their steps, the last line of each; a line cut short does not count."""
    by_step: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(OSError):
        for line in (folder / "validations.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                content = json.loads(line)
                by_step[int(content["step"])] = content
    return [by_step[step] for step in sorted(by_step)]


def history(folder: Path, metric: str) -> list[float]:
    """A metric's values in the order of steps, without validations that have none."""
    found = [line["metrics"].get(metric) for line in validations(folder)]
    return [float(value) for value in found if isinstance(value, (int, float)) and math.isfinite(value)]
