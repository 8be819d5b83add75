"""What a MODEL names, and the students in the box (small checkpoints that come with kdse: MODEL_CARD.md).

Public denoisers, whose weights do not come with kdse, are in `teachers`.

The tool commands, `--model.teacher_checkpoint`, `--model.weights` and `kdse.load_student` take the same MODELs: what
`MODEL` says. A file or run folder of the user's wins over a student of the same name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from kdse.errors import UserError, did_you_mean
from kdse.pretrained.teachers import TEACHERS, init_args

FOLDER = Path(__file__).parent

#: What `kdse enhance` uses when no model is named.
DEFAULT = "cruse-62k"

#: Where a run folder keeps its checkpoints, and the one that it goes on from.
CHECKPOINTS, LAST = "checkpoints", "last.ckpt"


class Named(NamedTuple):
    """What a MODEL names: a file, or a class with arguments if ``path`` is None. ``label`` is its short name."""

    label: str
    path: Path | None = None
    class_path: str = ""
    init_args: dict[str, Any] = {}


def names() -> list[str]:
    """Names of the models in the box."""
    return sorted(path.stem for path in FOLDER.glob("*.ckpt"))


#: What a MODEL can be, for --help.
MODEL = (
    f"a model in the box ({', '.join(names())}), a run folder (its last checkpoint; RUN:best: its best), a checkpoint "
    "of kdse fit, an .onnx file of kdse export, a public denoiser (kdse teachers lists them), its .onnx file or the "
    "folder of several, or a class path (kdse.models.Cruse)"
)


def resolve(model: str | Path) -> Named:
    """What a MODEL names. That a path in it does not exist is for the reader of the file to say.

    Raises:
        UserError: if it is nothing of what `MODEL` says.
    """
    text, path = os.fspath(model), Path(model)
    run, _, which = text.rpartition(":")
    if path.is_file():
        return Named(_label(path), path)
    if text in names() and not (path / CHECKPOINTS).is_dir():
        return Named(text, FOLDER / f"{text}.ckpt")
    if text in TEACHERS and not (path / CHECKPOINTS).is_dir():
        return Named(text, class_path=TEACHERS[text].class_path, init_args=init_args(text))
    if text and path.is_dir():
        last = path / CHECKPOINTS / LAST
        if not (path / CHECKPOINTS).is_dir() and any(path.glob("*.onnx")) and not any(path.glob("*.ckpt")):
            return Named(path.absolute().name, class_path="kdse.models.OnnxStream", init_args={"path": text})
        flat = path / LAST  # (a folder of checkpoints alone)
        last = flat if flat.is_file() and not last.is_file() else last
        return Named(_label(last), last)
    if run and Path(run).is_dir():
        return Named(f"{Path(run).absolute().name}-{which}", Path(run, CHECKPOINTS, f"{which}.ckpt"))
    if "/" in text or path.suffix in (".ckpt", ".pt", ".pth") or is_onnx(path):
        return Named(_label(path), path)
    *package, name = text.split(".")
    if all(map(str.isidentifier, [*package, name])) and (package or name[0].isupper()):  # (`kdse taps Cruse` works too)
        return Named(name, class_path=text if package else f"kdse.models.{name}")
    raise UserError(
        f"{text or 'MODEL is empty'}: neither a checkpoint file nor a model in the box ({', '.join(names())}), a run "
        f"folder, an .onnx file, a public denoiser ({', '.join(TEACHERS)}) or a class path "
        f"(kdse.models.Cruse){did_you_mean(text, [*names(), *TEACHERS])}"
    )


def find(model: str | Path) -> Path:
    """The file that a MODEL names, whether or not it exists.

    Raises:
        UserError: if it names no file.
    """
    path = resolve(model).path
    if path is None:
        what = "public denoiser" if os.fspath(model) in TEACHERS else "class path"
        raise UserError(f"{model}: is a {what}, and this needs the weights of a checkpoint; give its file or run")
    return path


def located(model: str | Path) -> Path:
    """Where the file of a MODEL would be: as `find`, and the text itself where that finds nothing."""
    try:
        return find(model)
    except UserError:
        return Path(model)


def is_onnx(file: str | Path | None) -> bool:
    """Whether a file is an exported one, which its name alone tells; no file is none."""
    return file is not None and Path(file).suffix == ".onnx"


def exported(checkpoint: Path) -> Path | None:
    """The ONNX streaming graph of a model in the box, made from it by `kdse export`; None for any other checkpoint."""
    graph = FOLDER / f"{checkpoint.stem}.onnx"
    return graph if checkpoint.parent == FOLDER and graph.is_file() else None


def _label(path: Path) -> str:
    """A file's own name; for the last checkpoint of a run that of the run."""
    folder = path.absolute().parent  # (not resolve: a link's own name counts)
    run = folder.parent if folder.name == CHECKPOINTS else folder
    return run.name if path.name == LAST and run.name else path.stem
