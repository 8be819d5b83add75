"""Metrics: how good an estimate is, measured against clean speech, and what could not be measured and why.

Imports nothing heavy: scoring processes load this package and must start fast.
"""

from kdse.metrics.clean_and_estimate import Pair
from kdse.metrics.pool import ScorePool
from kdse.metrics.registry import METRICS, Metric, Scores, check_metrics, score
from kdse.metrics.table import Row, Summary, summarize

__all__ = ["METRICS", "Metric", "Pair", "Row", "ScorePool", "Scores", "Summary", "check_metrics", "score", "summarize"]
