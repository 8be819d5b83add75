"""What a sweep compares runs by, read from their folders."""

from __future__ import annotations

import math
from pathlib import Path

from kdse.run_result import validations


def history(folder: Path, metric: str) -> list[float]:
    """A metric's values in the order of steps, without validations that have none."""
    found = [line["metrics"].get(metric) for line in validations(folder)]
    return [float(value) for value in found if isinstance(value, (int, float)) and math.isfinite(value)]
