"""The fork server of data processes ignores the signals of a job; it alone imports this module.

A cluster sends its signals to every process of a job, a terminal Ctrl-C; the run stops at its next step
(`kdse.training.stopping`), for which it needs its data processes alive.
"""

import signal

for _number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(_number, signal.SIG_IGN)
