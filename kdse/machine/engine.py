"""Engine that carries out a plan: starts its processes, so many at once, looks after them and tells how they ended."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

#: Seconds between two looks at the processes.
LOOK_SECONDS = 0.1


class Process(Protocol):
    """A command that runs."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def stop(self) -> None:
        """Asks it to stop, if it still runs."""


P = TypeVar("P", bound=Process)


class Plan(Generic[P]):
    """What to run: of `kdse compare`, `kdse sweep`, `kdse submit --local` and the demo."""

    def begin(self, place: int) -> P | None:
        """Starts the next process, at a place that is free (from 0); None if there is none to start now."""
        raise NotImplementedError

    def waits(self) -> bool:
        """Whether there may be some to start later, though none runs here now."""
        return False

    def look(self, running: Collection[P]) -> None:
        """Looks after what runs."""

    def end(self, process: P, code: int) -> None:
        """Keeps how a process ended."""
        raise NotImplementedError


def carry_out(plan: Plan[P], places: int = 1) -> None:
    """Runs the processes of a plan, ``places`` of them at once, until none runs and none is to come."""
    running: dict[int, P] = {}
    try:
        while True:
            for place in range(places):
                if place not in running and (process := plan.begin(place)) is not None:
                    running[place] = process
            plan.look(running.values())
            if not running and not plan.waits():
                return
            for place, process in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[place]
                    plan.end(process, code)
            time.sleep(LOOK_SECONDS)
    finally:
        for process in running.values():  # (only if something went wrong here)
            process.stop()
