"""Imported by the fork server of data processes and by nothing else: which signals end it and them.

A cluster sends its signals to every process of a job; the run stops at its next step (`kdse.run_stopping`), for which
it needs its data processes alive. Ctrl-C in a terminal reaches all of them too and ends the run at once: they go with
it, without Python's traceback.
"""

import signal

for _number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_IGN)
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # (else the run was started to ignore it)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
