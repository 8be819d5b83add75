"""Being stopped from outside, as a command sees it: its exit code, listening while it waits, ending what it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

#: Exit code for "stopped by a signal, start me again": EX_TEMPFAIL of sysexits.h.
STOPPED = 75

PR_SET_PDEATHSIG = 1  # of prctl, see linux/prctl.h


@contextlib.contextmanager
def listening(numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Hands signals to ``handler`` meanwhile; not those that this process was started to ignore (by nohup, say)."""
    taken = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def stop_with_parent() -> Callable[[], None] | None:
    """For ``preexec_fn``: the new process gets SIGTERM when this one ends, however it does (Linux; elsewhere None).

    Only for a process of one thread, as everything that runs between fork and exec.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(STOPPED)

    return ask
