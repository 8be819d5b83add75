"""The engine of `kdse compare` and `kdse sweep` keeps to its places and leaves nothing running."""

from __future__ import annotations

import pytest

from kdse.machine import engine
from kdse.machine.engine import carry_out


class Countdown:
    """A process that ends at its n-th look, with exit code n."""

    def __init__(self, place: int, looks: int) -> None:
        self.place, self.left, self.code, self.stopped = place, looks, looks, False

    def poll(self) -> int | None:
        self.left -= 1
        return None if self.left > 0 else self.code

    def stop(self) -> None:
        self.stopped = True


class Countdowns:
    """Some of them; it notes which places were taken at each look."""

    def __init__(self, looks: list[int]) -> None:
        self.looks, self.begun, self.taken, self.codes = looks, [], [], []

    def begin(self, place):
        if len(self.begun) == len(self.looks):
            return None
        self.begun.append(Countdown(place, self.looks[len(self.begun)]))
        return self.begun[-1]

    def look(self, running):
        self.taken.append(sorted(process.place for process in running))

    def end(self, process, code):
        self.codes.append(code)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(engine, "LOOK_SECONDS", 0.0)


@pytest.mark.parametrize("places", [1, 2, 3])
def test_every_run_is_trained_once_and_never_more_at_once_than_there_are_places(places):
    plan = Countdowns([3, 1, 4, 1, 5])
    carry_out(plan.begin, plan.end, plan.look, places=places)
    assert sorted(plan.codes) == [1, 1, 3, 4, 5]
    assert all(len(set(taken)) == len(taken) <= places for taken in plan.taken)
    assert max(map(len, plan.taken)) == places and not any(process.stopped for process in plan.begun)


def test_runs_are_stopped_if_something_goes_wrong_here():
    plan = Countdowns([1, 9])
    plan.end = lambda process, code: 1 / 0
    with pytest.raises(ZeroDivisionError):
        carry_out(plan.begin, plan.end, plan.look, places=2)
    assert [process.stopped for process in plan.begun] == [False, True]
