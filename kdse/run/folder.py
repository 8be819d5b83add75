"""A run folder of `kdse fit`: names of its files, its config, result and state."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from kdse.errors import UserError
from kdse.machine.yaml_file import read_yaml
from kdse.pretrained import CHECKPOINTS, LAST, located

CONFIG = "config.yaml"
LOCK = "run.lock"
RESULT = "result.json"
SWITCH = "switch.ckpt"
VALIDATIONS = "validations.jsonl"
#: Key of a checkpoint that holds the identity of its run.
RUN = "kdse_run"


def holds_run(folder: str | Path) -> str | None:
    """Name of the file by which a folder holds a run: config, result, validations or a checkpoint; None if none."""
    checkpoints = sorted(Path(folder, CHECKPOINTS).glob("*.ckpt"))
    own = (Path(folder, name) for name in (CONFIG, RESULT, VALIDATIONS))
    found = [path for path in (*own, *checkpoints) if path.is_file()]
    return str(found[0].relative_to(folder)) if found else None


def clear(folder: str | Path, patterns: Iterable[str]) -> None:
    """Removes files of a run from its folder, and the folders below it that are empty then.

    Args:
        folder: of the run.
        patterns: names in it, such as ``csv/version_*/metrics.csv``. Whatever else is there stays.
    """
    folder = Path(folder)
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        inside = (parent for parent in path.parents if parent.is_relative_to(folder) and parent != folder)
        if path.is_dir() and not path.is_symlink() or any(parent.is_symlink() for parent in inside):
            continue  # (none of a run's files)
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == folder or any(parent.iterdir()):
                break
            parent.rmdir()


def run_folder_of(checkpoint: str | Path) -> Path | None:
    """The run folder that a checkpoint lies in; None if it lies in none."""
    folder = Path(checkpoint).parent
    run = folder.parent if folder.name == CHECKPOINTS else folder
    return run if (run / CONFIG).is_file() else None


def last_checkpoint(run: Path) -> Path:
    """Where the last checkpoint of a run is, or would be."""
    return run / CHECKPOINTS / LAST


def read_config(path: Path) -> dict[str, Any]:
    """A config file; a ValueError that names the file if it cannot be read or is none."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: not readable (empty, or no config with keys such as model and data)")
    return content


def config_of(run: Path) -> dict[str, Any]:
    """The resolved config of a run, without parts that are no mappings; empty if it has none that can be read."""
    try:
        config = read_config(run / CONFIG)
    except UserError:
        return {}
    parts = {name: config[name] for name in ("model", "data", "trainer") if name in config}
    damaged = [
        n for n, v in parts.items() if not (isinstance(v, dict) and isinstance(v.get("init_args", {}), dict | None))
    ]
    return {name: value for name, value in config.items() if name not in damaged}


def seed_of(run: Path) -> int | None:
    """The seed of a run; None if it is unknown or was drawn."""
    seed = config_of(run).get("seed_everything")
    return seed if type(seed) is int else None  # (true means a random one)


def steps_of(run: Path) -> int | None:
    """Optimizer steps of a run's last checkpoint; None if there is none."""
    from kdse.models.checkpoint import read_checkpoint

    if not last_checkpoint(run).is_file():
        return None
    steps = read_checkpoint(last_checkpoint(run)).get("global_step")
    return steps if isinstance(steps, int) else None


def teacher_of(run: Path) -> Path | None:
    """The teacher's checkpoint that a run's config names; None if it had no teacher, or one of another kind."""
    path = (config_of(run).get("model", {}).get("init_args") or {}).get("teacher_checkpoint")
    return located(path) if isinstance(path, str) else None


def result(run: str | Path) -> dict[str, Any] | None:
    """The result of a run that has ended; None for one that has not, or was started again since."""
    try:
        content = json.loads((Path(run) / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("state") == "finished" else None


def state(run: Path) -> Literal["new", "unfinished", "finished"]:
    """How far a run is: never started, to be gone on with, or ended with its last checkpoint in place.

    A run of a kdse that wrote no ``result.json`` has ended if its last checkpoint is at ``trainer.max_steps``, or if
    its config does not say where it ends.
    """
    from kdse.models.checkpoint import read_checkpoint

    if not last_checkpoint(run).is_file():
        return "unfinished" if (run / CONFIG).is_file() and result(run) is None else "new"
    if result(run) is not None:
        return "finished"
    try:
        checkpoint = read_checkpoint(last_checkpoint(run))
    except ValueError:
        return "unfinished"  # (damaged: a resume knows what to do)
    end = (config_of(run).get("trainer") or {}).get("max_steps")
    ended = RUN not in checkpoint and (not isinstance(end, int) or checkpoint.get("global_step", 0) >= end)
    return "finished" if ended else "unfinished"
