"""Number formats of tables: the decimals and units of a metric, intervals, p values, counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from kdse.metrics.registry import METRICS
from kdse.metrics.table import Row
from kdse.report.tables.table import Cell, Column


class Shown(NamedTuple):
    """How a metric is shown: shown value = raw value x factor. A metric that kdse does not have is shown as it is."""

    title: str
    factor: float = 1
    decimals: int = 3
    higher_is_better: bool = True

    def number(self, value: float, sign: bool = False, fewer: int = 0) -> str:
        """A raw value, with ``fewer`` decimals than usual (but one at least)."""
        decimals = max(min(1, self.decimals), self.decimals - fewer)
        # adding zero turns the -0.00 of a small negative number into 0.00
        return f"{round(value * self.factor, decimals) + 0.0:{'+' if sign else ''}.{decimals}f}"

    def deviation(self, value: float) -> str:
        """``± 0.11``; empty for NaN."""
        return "" if math.isnan(value) else f"± {self.number(value)}"

    def interval(self, low: float, high: float, sign: bool = False, fewer: int = 0) -> str:
        """``[9.12, 9.81]``; empty without bounds."""
        if math.isnan(low):
            return ""
        return f"[{self.number(low, sign, fewer)}, {self.number(high, sign, fewer)}]"

    @property
    def better(self) -> str:
        """For `Column`."""
        return "higher" if self.higher_is_better else "lower"


def shown(metric: str) -> Shown:
    """How a metric is shown."""
    if metric not in METRICS:
        return Shown(metric)
    known = METRICS[metric]
    return Shown(known.title, known.factor, known.decimals, known.higher_is_better)


def metric_column(metric: str) -> Column:
    """A metric's column."""
    return Column(metric, shown(metric).title, shown(metric).better)


def variants(metrics: Sequence[str]) -> str:
    """One sentence that says exactly which variant of every metric is shown."""
    known = [f"{METRICS[metric].title}: {METRICS[metric].variant}" for metric in metrics if metric in METRICS]
    return f" {'; '.join(known)}." if known else ""


def p_value_cell(adjusted: float) -> Cell:
    """A p value; NaN is shown as missing."""
    if math.isnan(adjusted):
        return missing()
    return Cell("<0.001" if adjusted < 0.001 else f"{adjusted:.3f}", adjusted)


def missing() -> Cell:
    """What has no value although it was looked for."""
    return Cell("n/a")


def plain(value: float) -> float | None:
    """For files: twelve significant digits, which are the same on every machine; None for NaN."""
    return None if math.isnan(value) else float(f"{value:.12g}")


def snr_cell(snr_db: float | str) -> Cell:
    """An SNR bucket."""
    return Cell(snr_db if isinstance(snr_db, str) else f"{snr_db:g} dB", snr_db)


def word(text: str) -> Cell:
    """A name."""
    return Cell(text, text)


def count(number: int) -> Cell:
    """A small whole number."""
    return Cell(str(number), number)


def items(rows: Sequence[Row], metric: str) -> dict[str, float]:
    """Item to value, without those that failed."""
    values = {row.name: row.values.get(metric, math.nan) for row in rows}
    return {name: value for name, value in values.items() if not math.isnan(value)}
