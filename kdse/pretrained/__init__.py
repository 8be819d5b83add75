"""The students in the box: small checkpoints that come with kdse. See MODEL_CARD.md beside them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent

#: What `kdse enhance` uses when no model is named.
DEFAULT = "cruse-62k"


def names() -> list[str]:
    """Names of the models in the box."""
    return sorted(path.stem for path in FOLDER.glob("*.ckpt"))


def find(model: str | Path) -> Path:
    """The file of a model given by name ("cruse-62k") or by path; paths are returned as they are.

    Raises:
        ValueError: if it is neither a file nor the name of a model in the box.
    """
    path = located(model)
    if path.is_file() or path.suffix or "/" in str(model):
        return path  # a missing file is reported by what reads it
    raise ValueError(f"{model}: neither a checkpoint file nor a model in the box ({', '.join(names())})")


def located(model: str | Path) -> Path:
    """Where `find` looks for a model: its file in the box, or the path as it is, whether or not there is a file."""
    path = Path(model)
    return FOLDER / f"{model}.ckpt" if str(model) in names() and not path.is_file() else path


def exported(checkpoint: Path) -> Path | None:
    """The ONNX streaming graph of a model in the box, made from it by `kdse export`; None for any other checkpoint."""
    graph = FOLDER / f"{checkpoint.stem}.onnx"
    return graph if checkpoint.parent == FOLDER and graph.is_file() else None
