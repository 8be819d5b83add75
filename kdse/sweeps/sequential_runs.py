"""Training several runs one after another, each an ordinary `kdse fit` that is shown, finished once and resumable."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from kdse.machine.files import write_text
from kdse.machine.processes import call

MARKER = "run.json"


class Run(NamedTuple):
    """One run of `kdse fit`.

    name: for people.
    folder: its run folder.
    flags: of `kdse fit`, without --run_dir and --resume.
    settings: plain data that tells this run from another in the same folder.
    """

    name: str
    folder: Path
    flags: list[str]
    settings: dict[str, Any]

    @property
    def checkpoint(self) -> Path:
        """Where its last checkpoint is or will be."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def state(self) -> str:
        """What its folder says: "new", "started", "finished", "failed", or "other" for a run of other settings."""
        try:
            stored = json.loads((self.folder / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "other" if self.checkpoint.exists() else "new"
        if stored.get("settings") != self.settings:
            return "other"
        if stored.get("state") == "finished" and not self.checkpoint.exists():
            return "new"
        return str(stored.get("state"))

    def command(self) -> list[str]:
        """Arguments of `kdse` that train it, or go on where it was interrupted."""
        resume = ["--resume=true"] if self.state in ("started", "failed") else []
        return ["fit", *self.flags, f"--run_dir={self.folder}", *resume]


def train(run: Run, replace: bool = False, quiet: bool = False) -> int:
    """Trains a run, goes on where it was interrupted, or does nothing if it is finished; the exit code of `kdse fit`.

    Args:
        run: what to train.
        replace: train again where the folder holds a run of other settings.
        quiet: keep everything off stdout.

    Raises:
        ValueError: if the folder holds a run of other settings and ``replace`` is off.
    """
    if run.state == "finished":
        _say(f"\n{run.name}: finished before, kept (delete {run.folder} to train it again)", quiet)
        return 0
    if run.state == "other" and not replace:
        raise ValueError(
            f"{run.folder}: holds a run of other settings; delete it, give the settings it was made with, or another "
            "folder"
        )
    command = run.command()
    _note(run, "started")
    code = kdse(command, quiet)
    _note(run, "failed" if code else "finished")
    return code


def kdse(arguments: list[str], quiet: bool = False) -> int:
    """Runs one kdse command in a process of its own, showing it first; returns its exit code.

    Args:
        arguments: what follows `kdse`.
        quiet: send what it and we print to stderr.
    """
    _say(f"\n$ kdse {shlex.join(arguments)}", quiet)
    return call([sys.executable, "-m", "kdse.cli", *arguments], stdout=2 if quiet else None)


def _note(run: Run, state: str) -> None:
    write_text(run.folder / MARKER, json.dumps({"state": state, "settings": run.settings}, indent=2) + "\n")


def _say(text: str, quiet: bool) -> None:
    print(text, file=sys.stderr if quiet else sys.stdout, flush=True)
