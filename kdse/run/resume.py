"""Resuming a run: the checkpoint to go on from, the check for equal settings, the lock of a run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdse.errors import UserError, some
from kdse.models.checkpoint import LAST, PREVIOUS, read_checkpoint
from kdse.run.folder import CHECKPOINTS, CONFIG, LOCK, RUN, holds_run, read_config
from kdse.run.identity import differences

log = logging.getLogger(__name__)

#: Settings of the trainer that say how long a run is, and one that takes what follows from that.
LENGTHS = ("max_steps", "max_epochs", "max_time")
NEW_SWITCH = "schedule.accept_new_switch"


def last_good(folder: str | Path, run: str | None = None) -> Path | None:
    """The checkpoint a run goes on from: ``last.ckpt``, or the one before it if that is damaged (and says so).

    Args:
        folder: of the checkpoints. None comes back if it holds neither.
        run: identity of the run. A checkpoint of another one, left by a run whose folder this one took, does not count.

    Raises:
        ValueError: if there are checkpoints and none can be read: a run is never started again unasked.
    """
    problems: list[str] = []
    for path in (Path(folder) / LAST, Path(folder) / PREVIOUS):
        if not path.exists():
            continue
        try:
            content = read_checkpoint(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if run is not None and content.get(RUN, run) != run:
            log.warning("%s is of an earlier run of other settings in this folder and is not used", path)
            continue
        for problem in problems:
            log.warning("%s", problem.rsplit(";", 1)[0])
        if path.name != LAST:
            step = content.get("global_step")
            log.warning("going on from the checkpoint before it, %s, at optimizer step %s", path, step)
        return path
    if problems:
        raise UserError(
            f"--resume: no checkpoint in {folder} can be read ({problems[0]}); delete the folder to start again"
        )
    return None


def check_same_run(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Raises a ValueError that names the settings in which a run folder differs from this start's resolved config."""
    path, found = Path(folder) / CONFIG, holds_run(folder)
    if found is not None and not path.exists():
        raise UserError(
            f"--resume: {folder} holds {found} and no {CONFIG}, so that nobody knows its settings; give another "
            "folder, or --overwrite=true"
        )
    changed = differences(config, read_config(path)) if found is not None else []
    if changed:
        raise UserError(
            f"--resume: {folder} holds a run of other settings ({some(changed)}); give those it was made with, "
            "or another folder, or --ckpt_path to go on from its checkpoint with these"
        )


def check_longer(folder: str | Path, config: Mapping[str, Any]) -> None:
    """Raises a UserError unless a start from a run's own last checkpoint, in its folder, only makes it longer."""
    path = Path(folder) / CONFIG
    if not path.exists():
        return check_free(folder)
    stored = read_config(path)
    ends = [{f"trainer.{name}": (c.get("trainer") or {}).get(name) for name in LENGTHS} for c in (stored, config)]
    changed = [name for name in differences(config, stored) if name not in (*ends[0], NEW_SWITCH)]
    changed += [
        name for name, before in ends[0].items()
        if isinstance(before, int) and isinstance(after := ends[1][name], int) and 0 <= after < before
    ]  # fmt: skip
    if changed:
        raise UserError(
            f"--ckpt_path: in its own folder a run can go on for longer, but {some(changed)} would change what "
            f"{folder} says it is; give another --run_dir"
        )


def check_usable(folder: str | Path) -> None:
    """Raises a UserError if a run folder could not be made or written to, without making it."""
    path = Path(folder).absolute()
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "cannot be written to" if nearest.is_dir() else "is no folder"
        raise UserError(f"--run_dir {folder}: cannot be used ({nearest} {why}); give another one")
    checkpoints = path / CHECKPOINTS
    taken = [checkpoints] if checkpoints.is_file() else [p for p in checkpoints.glob("*.ckpt") if p.is_dir()]
    if taken:
        kind = "a file" if taken[0] is checkpoints else "a folder"
        raise UserError(f"--run_dir {folder}: cannot be used ({taken[0]} is {kind}); give another one")


def check_free(folder: str | Path) -> None:
    """Raises a UserError that names both flags if a folder holds a run, which a start without them would replace."""
    found = holds_run(folder)
    if found is not None:
        raise UserError(
            f"--run_dir {folder}: holds a run ({found}); go on with it by --resume=true, replace it by "
            "--overwrite=true, or give another folder"
        )


def hold(folder: str | Path, cleanup: ExitStack) -> None:
    """Makes and locks a run folder until ``cleanup`` ends (the kernel frees it after a kill).

    Raises:
        ValueError: if another process holds it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"--run_dir {folder}: another process trains in it; wait for it, or stop it") from None
    except OSError as error:
        raise UserError(f"--run_dir {folder}: cannot be used ({error.strerror or error}); give another one") from None
    except NotImplementedError:
        log.warning("%s is on a file system without locks: see to it that no other process trains there", folder)
        return
    cleanup.callback(lock.release)
