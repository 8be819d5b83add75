"""A run folder of `kdse fit`: its files, config, result and validations."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from kdse.pretrained import located

RESULT = "result.json"
VALIDATIONS = "validations.jsonl"
SWITCH = "switch.ckpt"


def run_folder_of(checkpoint: str | Path) -> Path | None:
    """The run folder that a checkpoint lies in; None if it lies in none."""
    folder = Path(checkpoint).parent
    run = folder.parent if folder.name == "checkpoints" else folder
    return run if (run / "config.yaml").is_file() else None


def last_checkpoint(run: Path) -> Path:
    """Where the last checkpoint of a run is, or would be."""
    return run / "checkpoints" / "last.ckpt"


def config_of(run: Path) -> dict[str, Any]:
    """The resolved config of a run; empty if it has none that can be read."""
    import yaml

    try:
        content = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


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
    model = config_of(run).get("model")
    path = (model.get("init_args") or {}).get("teacher_checkpoint") if isinstance(model, dict) else None
    return located(path) if isinstance(path, str) else None


def validations(folder: str | Path) -> list[dict[str, Any]]:
    """The validations of a run in the order of their steps, the last line of each; a line cut short does not count."""
    by_step: dict[int, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (Path(folder) / VALIDATIONS).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                content = json.loads(line)
                by_step[int(content["step"])] = content
    return [by_step[step] for step in sorted(by_step)]


def result(folder: str | Path) -> dict[str, Any] | None:
    """The result of a run that has ended; None for one that has not, or was started again since."""
    try:
        content = json.loads((Path(folder) / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("state") == "finished" else None


def history(folder: Path, metric: str) -> list[float]:
    """A metric's values in the order of steps, without validations that have none."""
    found = [line["metrics"].get(metric) for line in validations(folder)]
    return [float(value) for value in found if isinstance(value, (int, float)) and math.isfinite(value)]
