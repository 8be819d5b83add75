"""The fork server of data processes ignores the signals of a job; it alone imports this module.

A cluster sends its signals to every process of a job; the run stops at its next step (`kdse.training.stopping`),
for which it needs its data processes alive.
"""

import signal

for _number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(_number, signal.SIG_IGN)
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # (else the run was started to ignore it)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
