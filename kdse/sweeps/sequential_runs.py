"""Runs of `kdse fit` in the foreground, one after another: each is shown, trained once, resumed if it was stopped.

For `kdse compare` and the demo, in view and without Optuna; `kdse.sweeps.runner` trains in the background.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from kdse.errors import UserError
from kdse.machine.engine import carry_out
from kdse.machine.files import write_text
from kdse.machine.processes import KDSE, call
from kdse.run.folder import CHECKPOINTS, CONFIG, RESULT, clear, last_checkpoint, state
from kdse.run.identity import differences
from kdse.sweeps.command import fit_arguments
from kdse.sweeps.conditions import identifying

MARKER = "run.json"


class Run(NamedTuple):
    """One run of `kdse fit`.

    name: for people. folder: its run folder. flags: of `kdse fit`, without --run_dir and --resume. settings: plain data
    that tells this run from another in the same folder; mappings in it are configs.
    """

    name: str
    folder: Path
    flags: list[str]
    settings: dict[str, Any]

    @property
    def state(self) -> str:
        """What `kdse.run.folder.state` says of its folder, or "other" if that holds a run of other settings."""
        try:
            stored = json.loads((self.folder / MARKER).read_text(encoding="utf-8"))["settings"]
        except FileNotFoundError:
            return "other" if last_checkpoint(self.folder).exists() else state(self.folder)
        except (OSError, ValueError, KeyError):
            return "other"
        if stored.keys() != self.settings.keys():
            return "other"
        return "other" if any(_differ(k, stored[k], self.settings[k]) for k in stored) else state(self.folder)

    def command(self) -> list[str]:
        """Arguments of `kdse` that train it, or go on where it was interrupted."""
        return fit_arguments(self.flags, f"--run_dir={self.folder}", go_on=self.state == "unfinished")

    def check_settings(self) -> None:
        """Raises a ValueError if the folder holds a run of other settings."""
        if self.state == "other":
            raise UserError(
                f"{self.folder}: holds a run of other settings; delete it, or give another --out, or what it was made "
                "with"
            )

    def clear(self) -> None:
        """Removes the run that the folder holds, so that a new one can begin in it."""
        clear(self.folder, (RESULT, CONFIG, MARKER, f"{CHECKPOINTS}/*.ckpt"))


def train(runs: Iterable[Run], replace: Collection[str] = (), quiet: bool = False) -> dict[str, int]:
    """Trains runs, goes on where one was interrupted, and keeps what is finished.

    Args:
        runs: in the order of training.
        replace: states of `Run.state` whose run is trained anew. Another run in the folder ("other") that is not to be
            replaced is a ValueError.
        quiet: keep everything off stdout.

    Returns:
        by name, the exit code of `kdse fit`; 0 for what was finished.
    """
    left, codes = iter(runs), dict[str, int]()

    def begin(place: int) -> _InView | None:
        for run in left:
            if run.state in replace:
                run.clear()
            if run.state == "finished":
                _say(f"\n{run.name}: finished before, kept (delete {run.folder} to train it again)", quiet)
                codes[run.name] = 0
                continue
            run.check_settings()
            command = run.command()
            write_text(run.folder / MARKER, json.dumps({"settings": run.settings}, indent=2) + "\n")
            return _InView(run, command, quiet)
        return None

    carry_out(begin, lambda ended, code: codes.update({ended.run.name: code}))
    return codes


def kdse(arguments: list[str], quiet: bool = False) -> int:
    """Runs one kdse command in a process of its own, showing it first; its exit code. ``quiet``: all to stderr."""
    _say(f"\n$ kdse {shlex.join(arguments)}", quiet)
    return call([*KDSE, *arguments], stdout=2 if quiet else None)


class _InView(NamedTuple):
    """A run that has the terminal to itself."""

    run: Run
    command: list[str]
    quiet: bool

    def poll(self) -> int:
        """Trains it to its end."""
        return kdse(self.command, self.quiet)

    def stop(self) -> None:
        """Nothing: an interrupted `call` has ended it."""


def _differ(key: str, stored: Any, now: Any) -> bool:
    """Whether one of a run's settings was another when it began, but for what changes no result."""
    if isinstance(stored, dict) and isinstance(now, dict):
        return bool(differences(stored, now))
    return identifying(stored) != identifying(now) if key == "flags" else stored != now


def _say(text: str, quiet: bool) -> None:
    print(text, file=sys.stderr if quiet else sys.stdout, flush=True)
