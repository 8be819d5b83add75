"""A process pool: results as they come in, and no process that outlives the command."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from kdse.errors import UserError

Result = TypeVar("Result")


def as_they_come(function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], workers: int) -> Iterator[Result]:
    """Yields ``function(*job)`` of every job, in the order in which they end.

    The processes are started afresh: forks of a process with threads could deadlock, and its fork server is that of
    the data loaders.

    ``function`` belongs to a module, so that other processes find it; ``jobs`` are its arguments, taken as they are
    needed; ``workers`` is the number of processes, 0 for none besides this one.

    Raises:
        ValueError: if a process was killed; otherwise what ``function`` raises.
    """
    todo = iter(jobs)
    if workers == 0:
        yield from (function(*job) for job in todo)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        running: set[Future[Result]] = set()
        try:
            while True:
                running |= {pool.submit(function, *job) for job in islice(todo, 4 * workers - len(running))}
                if not running:
                    return
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        except BrokenProcessPool:
            raise UserError("a process was killed (out of memory?); run the command again, it goes on") from None
        finally:
            for future in running:
                future.cancel()


def _end_with_parent() -> None:
    """The processes of a pool would wait for ever for one that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait_for([parent.sentinel]), os._exit(1)), daemon=True).start()
