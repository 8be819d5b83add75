"""Engine of `kdse compare`, `kdse sweep`, `kdse submit --local` and the demo: runs their processes, so many at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

#: Seconds between two looks at the processes.
LOOK_SECONDS = 0.1


class Process(Protocol):
    """A command that runs."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def stop(self) -> None:
        """Asks it to stop, if it still runs."""


P = TypeVar("P", bound=Process)


def carry_out(
    begin: Callable[[int], P | None],
    end: Callable[[P, int], None],
    look: Callable[[Collection[P]], None] = lambda running: None,
    waits: Callable[[], bool] = lambda: False,
    places: int = 1,
) -> None:
    """Runs processes until none runs and none is to come.

    Args:
        begin: starts the next one, at a place that is free (from 0); None if there is none to start now.
        end: keeps how one ended, its exit code.
        look: looks after those that run.
        waits: whether there may be some to start later, though none runs here now.
        places: how many run at once.
    """
    running: dict[int, P] = {}
    try:
        while True:
            for place in range(places):
                if place not in running and (process := begin(place)) is not None:
                    running[place] = process
            look(running.values())
            if not running and not waits():
                return
            for place, process in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[place]
                    end(process, code)
            time.sleep(LOOK_SECONDS)
    finally:
        for process in running.values():  # (only if something went wrong here)
            process.stop()
