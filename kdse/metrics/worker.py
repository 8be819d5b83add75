"""A scoring process: ``python -m kdse.metrics.worker FD``. Started by `kdse.metrics.pool.ScorePool`, not by people."""

from __future__ import annotations

import contextlib
import signal
import sys
from multiprocessing.connection import Connection

from kdse.metrics.pool import serve

if __name__ == "__main__":
    # Ctrl-C reaches the whole process group, a cluster's signals every process: the main process decides what ends
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the main process went away in the middle of an answer
        serve(Connection(int(sys.argv[1])))
