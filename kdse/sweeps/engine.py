"""Engine of `kdse compare`, `kdse sweep` and the demo: trains the runs of a plan in processes of `kdse fit`."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

#: Seconds between two looks at the processes.
LOOK_SECONDS = 0.1


class Process(Protocol):
    """A run in training."""

    def poll(self) -> int | None:
        """Its exit code; None while it trains."""

    def stop(self) -> None:
        """Asks it to stop after its step, if it still trains."""


P = TypeVar("P", bound=Process)


class Plan(Protocol[P]):
    """What to train: finished runs are passed over, stopped ones gone on with, runs of other settings refused."""

    def begin(self, place: int) -> P | None:
        """Starts the next run, at a place that is free (from 0); None if there is none to start now."""

    def waits(self) -> bool:
        """Whether there may be runs to start later, though none trains here now."""

    def look(self, running: Collection[P]) -> None:
        """Looks after what trains."""

    def end(self, process: P, code: int) -> None:
        """Keeps how a run ended."""


def carry_out(plan: Plan[P], places: int = 1) -> None:
    """Trains the runs of a plan, ``places`` of them at once, until none trains and none is to come."""
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


def fit_arguments(flags: Sequence[str], where: str, go_on: bool, more: Sequence[str] = ()) -> list[str]:
    """Arguments of `kdse` that train a run: all that kdse starts have them from here.

    Args:
        flags: what is trained.
        where: ``--run_dir=FOLDER`` or ``--run_root=FOLDER``.
        go_on: go on with the run that is there, if there is one. A folder that has one is never taken without.
        more: flags that come last.
    """
    return ["fit", *flags, where, *(["--resume=true"] if go_on else []), *more]
