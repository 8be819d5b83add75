"""Imported by the fork server of data processes and by nothing else: it must not die of a signal meant for the run.

A cluster sends its signals to every process of a job; the run stops at its next step (`kdse.run_stopping`), for which
it needs its data processes alive.
"""

import signal

for _number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_IGN)
