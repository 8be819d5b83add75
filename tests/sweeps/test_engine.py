"""The engine of `kdse compare` and `kdse sweep` keeps to its places, and takes no folder that holds a run unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdse.run.folder import last_checkpoint
from kdse.sweeps import engine, sequential_runs
from kdse.sweeps.engine import carry_out, fit_arguments
from kdse.sweeps.sequential_runs import Run, train


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
    """A plan of them; it notes which places were taken at each look."""

    def __init__(self, looks: list[int]) -> None:
        self.looks, self.begun, self.taken, self.codes = looks, [], [], []

    def begin(self, place):
        if len(self.begun) == len(self.looks):
            return None
        self.begun.append(Countdown(place, self.looks[len(self.begun)]))
        return self.begun[-1]

    def waits(self):
        return False

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
    carry_out(plan, places)
    assert sorted(plan.codes) == [1, 1, 3, 4, 5]
    assert all(len(set(taken)) == len(taken) <= places for taken in plan.taken)
    assert max(map(len, plan.taken)) == places and not any(process.stopped for process in plan.begun)


def test_runs_are_stopped_if_something_goes_wrong_here():
    plan = Countdowns([1, 9])
    plan.end = lambda process, code: 1 / 0
    with pytest.raises(ZeroDivisionError):
        carry_out(plan, 2)
    assert [process.stopped for process in plan.begun] == [False, True]


def test_a_run_is_gone_on_with_only_if_asked():
    assert fit_arguments(["--a=1"], "--run_dir=x", go_on=False, more=["--b=2"]) == [
        "fit", "--a=1", "--run_dir=x", "--b=2",
    ]  # fmt: skip
    assert "--resume=true" in fit_arguments([], "--run_dir=x", go_on=True)


@pytest.mark.parametrize(
    ("left", "replace", "started"),
    [
        ("nothing", (), "anew"),
        ("unfinished", (), "on"),
        ("finished", (), "not at all"),
        ("finished", ("finished",), "anew"),
        ("unfinished", ("unfinished",), "anew"),
        ("other", ("other",), "anew"),
        ("other", (), "refused"),
    ],
)
def test_what_a_folder_holds_says_how_a_run_begins(left, replace, started, tmp_path, monkeypatch, capsys):
    def call(command: list[str], **_) -> int:
        """Leaves what `kdse fit` leaves; the last checkpoint says which start wrote it."""
        starts.append(command[3:])
        if "--resume=true" not in command:
            assert not [f for f in run.folder.rglob("*") if f.is_file() and f.name != "run.json"], "a run is there"
        last_checkpoint(run.folder).parent.mkdir(parents=True, exist_ok=True)
        for name in ("config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
            (run.folder / name).write_text("trainer: {}\n")
        if finishes:
            (run.folder / "result.json").write_text('{"state": "finished"}')
        return 0

    starts: list[list[str]] = []
    monkeypatch.setattr(sequential_runs, "call", call)
    run = Run("a", Path(tmp_path / "a"), ["--x=1"], {"x": 2 if left == "other" else 1})
    finishes = left in ("finished", "other")
    if left != "nothing":
        train([run])
        starts.clear()
    run = run._replace(settings={"x": 1})
    if started == "refused":
        with pytest.raises(ValueError, match="holds a run of other settings"):
            train([run], replace)
        assert not starts
        return
    assert train([run], replace) == {"a": 0}
    begin = ["fit", "--x=1", f"--run_dir={run.folder}"]
    assert starts == {"not at all": [], "anew": [begin], "on": [[*begin, "--resume=true"]]}[started]
    assert ("a: finished before, kept (delete" in capsys.readouterr().out) == (started == "not at all")
