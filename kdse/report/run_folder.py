"""What a run folder of `kdse fit` says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdse.pretrained import located


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
    from kdse.checkpoint import read_checkpoint

    if not last_checkpoint(run).is_file():
        return None
    steps = read_checkpoint(last_checkpoint(run)).get("global_step")
    return steps if isinstance(steps, int) else None


def teacher_of(run: Path) -> Path | None:
    """The teacher's checkpoint that a run's config names; None if it had no teacher, or one of another kind."""
    model = config_of(run).get("model")
    path = (model.get("init_args") or {}).get("teacher_checkpoint") if isinstance(model, dict) else None
    return located(path) if isinstance(path, str) else None
