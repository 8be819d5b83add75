"""The figures of a report, each a function from results to a `kdse.report.contents.Figure`."""

from kdse.report.curves import switch_steps, training_curves, training_log
from kdse.report.drawing import colours
from kdse.report.heatmaps import similarity
from kdse.report.pareto import Point, pareto, pareto_front
from kdse.report.snr_figure import improvement_by_snr

__all__ = [
    "Point", "colours", "improvement_by_snr", "pareto", "pareto_front", "similarity", "switch_steps", "training_curves",
    "training_log",
]  # fmt: skip
