"""What a folder holds says how a run begins in it; no folder that holds a run is taken unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdse.machine import engine
from kdse.run.folder import last_checkpoint
from kdse.sweeps import sequential_runs
from kdse.sweeps.command import fit_arguments
from kdse.sweeps.sequential_runs import Run, train


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(engine, "LOOK_SECONDS", 0.0)


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
