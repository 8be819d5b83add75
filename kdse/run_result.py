"""What a run leaves for programs: every validation as a line, and its result once it has ended. Reads them only.

(`kdse.report.training.result.RunResult` writes them, with what trains a run; this needs none of that.)
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

RESULT = "result.json"
VALIDATIONS = "validations.jsonl"


def validations(folder: str | Path) -> list[dict[str, Any]]:
    """The validations of a run in the order of their steps, the last line of each; a line cut short does not count."""
    by_step: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (Path(folder) / VALIDATIONS).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                content = json.loads(line)
                by_step[int(content["step"])] = content
    return [by_step[step] for step in sorted(by_step)]


def result(folder: str | Path) -> dict[str, Any] | None:
    """The result of a run that has ended; None for one that has not, or was started again since."""
    try:
        content = json.loads((Path(folder) / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("state") == "finished" else None
