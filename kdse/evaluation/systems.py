"""What `kdse evaluate` compares: the unprocessed input, models in checkpoints, folders of enhanced audio."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from kdse.metrics.table import NOISY

if TYPE_CHECKING:
    from torch import Tensor

    from kdse.commands.held_out import Item

#: Turns an item into an estimate ``[N]``; a ValueError counts the item as failed.
System: TypeAlias = "Callable[[Item], Tensor]"


def unprocessed(item: Item) -> Tensor:
    """The noisy input itself."""
    return item.noisy


def model_system(path: Path, sample_rate_hz: int, device: str, trust_code: bool) -> tuple[System, dict[str, Any]]:
    """A checkpoint as a system, and what to record of it."""
    import torch

    from kdse.checkpoint import load_model

    model = load_model(path, trust_code=trust_code)
    if model.sample_rate_hz != sample_rate_hz:
        raise ValueError(
            f"checkpoint {path}: works at {model.sample_rate_hz} Hz and the test set is at {sample_rate_hz} Hz; "
            f"set --sample-rate-hz {model.sample_rate_hz}"
        )
    model.to(device)

    @torch.no_grad()
    def enhance(item: Item) -> Tensor:
        return model(item.noisy[None].to(device)).waveform[0].float().cpu()

    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return enhance, {
        "kind": "checkpoint", "path": str(path), "model": type(model).__name__, "parameters": parameters
    }  # fmt: skip


def folder_system(folder: Path, sample_rate_hz: int) -> tuple[System, dict[str, Any]]:
    """A folder of enhanced files, named as the items, as a system. A missing file fails its item."""
    if not folder.is_dir():
        raise ValueError(f"--enhanced {folder}: no such folder")
    from kdse.data.audio import EXTENSIONS, read

    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in EXTENSIONS:
            files.setdefault(path.stem, []).append(path)
    if not files:
        raise ValueError(f"--enhanced {folder}: holds no audio files")

    def look_up(item: Item) -> Tensor:
        found = files.get(Path(item.name).name) or files.get(Path(item.name).stem) or []
        if len(found) != 1:
            raise ValueError(f"{folder} holds {len(found) or 'no'} files for {item.name}")
        return read(found[0], sample_rate_hz)

    return look_up, {"kind": "enhanced folder", "folder": str(folder)}


def checkpoints(texts: Sequence[str]) -> dict[str, Path]:
    """Label to checkpoint file from ``label=path`` or ``path``; a run folder means its checkpoints/last.ckpt.

    Raises:
        ValueError: for a missing file or a label given twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        label, where = ("", text) if "=" not in text or Path(text).exists() else _split(text, "checkpoint")
        path = Path(where)
        file = path
        if path.is_dir():
            candidates = [path / "checkpoints" / "last.ckpt", path / "last.ckpt"]
            file = next((c for c in candidates if c.is_file()), candidates[0])
        if not file.is_file():
            raise ValueError(f"checkpoint {file}: no such file")
        if not label:
            inside = file.resolve().parent
            run = inside.parent if inside.name == "checkpoints" else inside
            label = run.name if file.name == "last.ckpt" else file.stem
        _check_label(label, found)
        found[label] = file
    return found


def enhanced_folders(texts: Sequence[str], taken: Sequence[str] = ()) -> dict[str, Path]:
    """Label to folder from ``label=folder``.

    Raises:
        ValueError: for another form or a label given twice (or ``taken``).
    """
    found: dict[str, Path] = {}
    for text in texts:
        label, folder = _split(text, "--enhanced")
        _check_label(label, [*taken, *found])
        found[label] = Path(folder)
    return found


def _split(text: str, flag: str) -> tuple[str, str]:
    label, equals, path = text.partition("=")
    if not (label and equals and path):
        raise ValueError(f"{flag} {text}: write it as LABEL=PATH")
    return label, path


def _check_label(label: str, taken: Collection[str]) -> None:
    if label == NOISY:
        raise ValueError(f"a system cannot be called {NOISY!r}: that is the unprocessed input, which is always scored")
    if label in taken:
        raise ValueError(f"two systems are called {label!r}; give them different labels (LABEL=PATH)")
