"""Runs of `kdse fit` in the foreground, one after another: each is shown, trained once, resumed if it was stopped.

For `kdse compare` and the demo, in view and without Optuna; `kdse.sweeps.runner` trains in the background.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from kdse.errors import UserError
from kdse.machine.files import write_text
from kdse.machine.processes import call
from kdse.run.folder import CHECKPOINTS, CONFIG, RESULT, clear, last_checkpoint, state
from kdse.run.identity import differences
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
        resume = ["--resume=true"] if self.state == "unfinished" else []
        return ["fit", *self.flags, f"--run_dir={self.folder}", *resume]


def train(run: Run, replace: bool = False, quiet: bool = False) -> int:
    """Trains a run, goes on where it was interrupted, or does nothing if it is finished; the exit code of `kdse fit`.

    Args:
        replace: train again where the folder holds a run of other settings, which otherwise is a ValueError.
        quiet: keep everything off stdout.
    """
    if run.state == "finished":
        _say(f"\n{run.name}: finished before, kept (delete {run.folder} to train it again)", quiet)
        return 0
    if not replace:
        check_settings(run)
    if run.state == "other":
        clear(run.folder, (RESULT, CONFIG, MARKER, f"{CHECKPOINTS}/*.ckpt"))
    command = run.command()
    write_text(run.folder / MARKER, json.dumps({"settings": run.settings}, indent=2) + "\n")
    return kdse(command, quiet)


def check_settings(run: Run) -> None:
    """Raises a ValueError if the run's folder holds a run of other settings."""
    if run.state == "other":
        raise UserError(
            f"{run.folder}: holds a run of other settings; delete it, or give another --out, or what it was made with"
        )


def kdse(arguments: list[str], quiet: bool = False) -> int:
    """Runs one kdse command in a process of its own, showing it first; its exit code. ``quiet``: all to stderr."""
    _say(f"\n$ kdse {shlex.join(arguments)}", quiet)
    return call([sys.executable, "-m", "kdse.cli", *arguments], stdout=2 if quiet else None)


def _differ(key: str, stored: Any, now: Any) -> bool:
    """Whether one of a run's settings was another when it began, but for what changes no result."""
    if isinstance(stored, dict) and isinstance(now, dict):
        return bool(differences(stored, now))
    return identifying(stored) != identifying(now) if key == "flags" else stored != now


def _say(text: str, quiet: bool) -> None:
    print(text, file=sys.stderr if quiet else sys.stdout, flush=True)
