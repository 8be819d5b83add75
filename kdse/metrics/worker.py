"""A scoring process: ``python -m kdse.metrics.worker FD METRIC...``, started by `kdse.metrics.pool.ScorePool`."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection

from kdse.metrics.registry import METRICS, score_each


def serve(connection: Connection, metrics: Sequence[str]) -> None:
    """Imports what the metrics need, says that it is ready, and scores what it is sent until the other end closes.

    It answers that an item is there, and then metric by metric, so that the other end knows what a crash is due to.
    """
    for package in {package for name in metrics for package in METRICS[name].packages}:
        with contextlib.suppress(Exception):  # (a failure of the items, with this as their reason)
            importlib.import_module(package)
    connection.send("ready")
    while True:
        request = connection.recv()
        connection.send("received")
        for one in score_each(*request):
            connection.send(one)


if __name__ == "__main__":
    # Ctrl-C reaches the whole process group, a cluster's signals every process: the main process decides what ends
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the main process closed the connection, or is gone
        serve(Connection(int(sys.argv[1])), sys.argv[2:])
