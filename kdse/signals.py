"""Being stopped from outside, as a command sees it: the exit code that says so, and listening while it waits."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

#: Exit code for "stopped by a signal, start me again": EX_TEMPFAIL of sysexits.h.
STOPPED = 75


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
