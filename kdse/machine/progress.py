"""Progress on stderr: bars on a terminal, a line every few seconds in a log file or a pipe."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kdse.errors import printable

SECONDS_BETWEEN_LINES = 15.0


class Pace:
    """Tells when the next line is due: ``SECONDS_BETWEEN_LINES`` after the last one."""

    def __init__(self) -> None:
        self.started = self.said = time.monotonic()

    def due(self) -> bool:
        """Whether a line is due; if so, it counts as said."""
        now = time.monotonic()
        if now - self.said < SECONDS_BETWEEN_LINES:
            return False
        self.said = now
        return True


def say(line: str) -> None:
    """One line on stderr at once."""
    print(printable(line), file=sys.stderr, flush=True)


class Lines:
    """Lines such as ``index: 20/100 files after 15 s, about 60 s left``: at the first call, at the end and at a slow
    pace between."""

    def __init__(self, what: str, unit: str, show: bool = True) -> None:
        self.what, self.unit, self.show = what, unit, show
        self._pace = Pace()
        self._first: int | None = None  # how many were done at the first call
        self._begin: tuple[float, int] | None = None  # when the first of the others was done, and the count then

    def __call__(self, done: int, total: int) -> None:
        """Takes the count as it is now."""
        now = time.monotonic()
        if self._begin is None and self._first is not None and done > self._first:
            self._begin = now, done  # (processes start before it: that time comes once)
        if not self.show or not (self._first is None or done == total or self._pace.due()):
            return
        self._first = done if self._first is None else self._first
        seconds = now - self._pace.started
        since, counted = self._begin or (now, done)
        left = (now - since) / (done - counted) * (total - done) if done > counted else 0
        expected = f", about {left:.0f} s left" if left else ""
        say(f"{self.what}: {done}/{total} {self.unit} after {seconds:.0f} s{expected}")


class Counts:
    """Counts of things that are done: bars of a `rich.progress.Progress`, or lines. Safe to use from any thread."""

    def __init__(self, bars: Any = None, show: bool = True) -> None:
        self._bars, self._show = bars, show
        self._lock = threading.Lock()

    def add(self, what: str, unit: str, total: int, done: int = 0) -> Callable[..., None]:
        """Begins a count; returns what to call after each unit, or with the number of several."""
        if self._bars is not None:
            task = self._bars.add_task(what, total=total, completed=done, unit=unit)
            return lambda count=1: self._bars.advance(task, count)
        lines = Lines(what, unit, self._show)
        lines(done, total)

        def advance(count: int = 1) -> None:
            nonlocal done
            with self._lock:
                done += count
                lines(done, total)

        return advance

    def print(self, text: Any) -> None:
        """A text, or what `rich` can draw, between the lines."""
        from rich.console import Console

        if self._show:
            console = Console(stderr=True) if self._bars is None else self._bars.console
            console.print(printable(text) if isinstance(text, str) else text, markup=False)


@contextmanager
def counting(show: bool = True) -> Iterator[Counts]:
    """Gives what shows counts meanwhile: bars if stderr is a terminal, else lines; nothing if ``show`` is off."""
    if not show or not sys.stderr.isatty():
        yield Counts(show=show)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    what, unit = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[unit]}")
    columns = (what, BarColumn(), MofNCompleteColumn(), unit, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield Counts(bars)
