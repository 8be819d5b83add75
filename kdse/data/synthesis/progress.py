"""Progress of a build on stderr: a bar on a terminal, a line every few seconds in a log file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def show_progress(total: int, done: int, show: bool) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each clip, from any thread.

    Args:
        total: clips of the corpus.
        done: clips that an earlier build left.
        show: False prints nothing.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if show and not console.is_terminal:
        yield _Lines(console.file.write, console.file.flush, total, done).advance
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("embedded corpus"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not show) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda: bar.advance(task)


class _Lines:
    """Says how far it is at the start, every few seconds and at the end."""

    def __init__(self, write: Callable[[str], object], flush: Callable[[], object], total: int, done: int) -> None:
        self._write, self._flush, self._total, self._done = write, flush, total, done
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._say()

    def advance(self) -> None:
        with self._lock:
            self._done += 1
            if self._done == self._total or time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
                self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        seconds = self._said - self._started
        self._write(f"embedded corpus: {self._done}/{self._total} clips after {seconds:.0f} s\n")
        self._flush()
