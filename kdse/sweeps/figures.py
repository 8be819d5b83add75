"""The pictures of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from kdse.report.contents import Figure
from kdse.sweeps.definition import Sweep
from kdse.sweeps.rows import Row


def pictures(sweep: Sweep, found: Sequence[Row]) -> list[Figure]:
    return []
