"""The MODEL of a command: a checkpoint, an exported file, a model in the box, or a class path with `--init`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse import pretrained
from kdse.evaluation.systems import check_label, label_and_path
from kdse.pretrained import find, located

if TYPE_CHECKING:
    from kdse.models.base import SpeechModel

BACKENDS = ("torch", "onnx")


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL, --init and --trust-code."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="checkpoint file of kdse fit (runs/student/checkpoints/last.ckpt), model in the box (cruse-62k), or "
        "class path (kdse.models.Cruse)",
    )
    parser.add_argument(
        "--init",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="constructor argument for a class path, value in YAML, e.g. --init channels='[8,16,32,32]'; repeatable",
    )
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="let a checkpoint name model classes that kdse does not ship, and run them",
    )


def build_model(arguments: argparse.Namespace) -> SpeechModel:
    """The model that the parsed arguments name, in eval mode.

    Raises:
        ValueError: if there is no such file or class, or the class cannot be built with the given arguments.
    """
    from kdse.models.checkpoint import load_model
    from kdse.seeding import seeded

    name = arguments.model
    if not name:
        raise ValueError("MODEL is empty; give a checkpoint file or a class path such as kdse.models.Cruse")
    if located(name).exists() or name.endswith((".ckpt", ".pt", ".pth")) or "/" in name:
        if arguments.init:
            raise ValueError("--init: a checkpoint stores its own constructor arguments; leave --init out")
        return load_model(name, trust_code=arguments.trust_code)
    cls = _find_class(name)
    kwargs = parse_init(arguments.init)
    try:
        inspect.signature(cls).bind(**kwargs)
    except TypeError as error:
        known = [p for p in inspect.signature(cls).parameters if p != "self"]
        raise ValueError(f"--init: {name} {error}; its arguments are {', '.join(known)}") from None
    try:
        with seeded("model", 0):
            return cls(**kwargs).eval()
    except (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        raise ValueError(f"--init: {name} cannot be built with {kwargs}: {_first_line(error)}") from None


@contextlib.contextmanager
def failures_explained(model: SpeechModel, seconds: float) -> Iterator[None]:
    """Turns what a model's layers raise on a probe clip (too short, wrong axes) into a ValueError of one line."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"{type(model).__name__} fails on a clip of {seconds:g} s ({_first_line(error)}); check its arguments, or "
            "try another --seconds"
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def parse_init(items: list[str]) -> dict[str, Any]:
    """``["channels=[8,16]", "gru_groups=2"]`` to a dictionary; values are YAML.

    Raises:
        ValueError: if an item has no ``=`` or its value is not YAML.
    """
    import yaml

    values: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--init {item}: write NAME=VALUE, e.g. --init channels='[8,16,32,32]'")
        try:
            values[name.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"--init {item}: {text!r} is not a YAML value") from None
    return values


def _find_class(name: str) -> type[SpeechModel]:
    module_name, _, class_name = name.rpartition(".")
    module_name = module_name or "kdse.models"  # `kdse taps Cruse` works too
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        from kdse import models

        raise ValueError(
            f"{name}: neither a checkpoint file nor a class path ({_first_line(error)}); kdse ships "
            f"{', '.join(f'kdse.models.{n}' for n in models.__all__ if _is_model(getattr(models, n)))}"
        ) from None
    if not _is_model(cls):
        raise ValueError(f"{name}: not a SpeechModel; adapt it with kdse.models.Wrapped --init class_path={name}")
    return cls


def _is_model(cls: object) -> bool:
    from kdse.models.base import SpeechModel

    return isinstance(cls, type) and issubclass(cls, SpeechModel) and cls is not SpeechModel


def checkpoints(texts: Sequence[str]) -> dict[str, Path]:
    """Label to checkpoint file from ``label=path`` or ``path``.

    A run folder means its checkpoints/last.ckpt, a name such as "cruse-62k" the model in the box.

    Raises:
        ValueError: for a missing file or a label given twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        label, where = ("", text) if "=" not in text or Path(text).exists() else label_and_path(text, "checkpoint")
        path = Path(where)
        if path.is_dir():
            candidates = [path / "checkpoints" / "last.ckpt", path / "last.ckpt"]
            file = next((c for c in candidates if c.is_file()), candidates[0])
        else:
            file = find(path)
        if not file.is_file():
            raise ValueError(f"checkpoint {file}: no such file")
        if not label:
            inside = Path(os.path.abspath(file)).parent  # (not resolve: a link's own name counts)
            run = inside.parent if inside.name == "checkpoints" else inside
            label = run.name if file.name == "last.ckpt" else file.stem
        check_label(label, found)
        found[label] = file
    return found


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --checkpoint, --backend, --device and --trust-code."""
    parser.add_argument(
        "--checkpoint",
        default=pretrained.DEFAULT,
        metavar="CKPT",
        help=f"a model in the box ({', '.join(pretrained.names())}; default: {pretrained.DEFAULT}), a checkpoint of "
        "kdse fit, or an .onnx file of kdse export",
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="torch",
        help="what runs a checkpoint: torch (default), or onnx (ONNX Runtime on the CPU, for models that stream; a "
        "checkpoint of yours is exported first, which takes seconds: kdse export does that once, and its .onnx file "
        "always runs there)",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:1")
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="let the checkpoint name model classes that kdse does not ship, and run them",
    )


def open_model(arguments: argparse.Namespace) -> tuple[SpeechModel, str]:
    """The model that the parsed arguments name, and what to call it in front of the user.

    Raises:
        ValueError: naming the flag or file, if there is no such model, device or backend here.
    """
    from kdse.models.checkpoint import load_model

    try:
        path = pretrained.find(arguments.checkpoint)
    except ValueError as error:
        raise ValueError(f"--checkpoint {error}") from None
    name = path.name if path.suffix and str(path) == str(arguments.checkpoint) else str(arguments.checkpoint)
    if path.suffix == ".onnx":
        _check_cpu(arguments.device, f"{path.name} runs")
        return load_model(path, trust_code=arguments.trust_code), f"{name} in ONNX Runtime"
    if arguments.backend == "onnx":
        _check_cpu(arguments.device, "--backend onnx runs")
        if boxed := pretrained.exported(path):
            return load_model(boxed), f"{name} in ONNX Runtime"
        model = load_model(path, trust_code=arguments.trust_code)
        return to_onnx(model, path), f"{name} in ONNX Runtime"
    return to_device(load_model(path, trust_code=arguments.trust_code), arguments.device), name


def to_onnx(model: SpeechModel, checkpoint: Path) -> SpeechModel:
    """The same student in ONNX Runtime, through a temporary file; its export checks that the two agree.

    Raises:
        ValueError: if the model does not stream, so that it has no graph of one hop.
    """
    from kdse.models.streaming import can_stream

    if not can_stream(model):
        raise ValueError(f"--backend onnx: {type(model).__name__} does not stream; use --backend torch")
    from kdse.deploy.export.write import export_file
    from kdse.models.onnx_student import OnnxStudent

    with tempfile.TemporaryDirectory(prefix="kdse-onnx-") as folder:
        file = Path(folder) / f"{checkpoint.stem}.onnx"
        export_file(model, file, checkpoint=checkpoint)
        return OnnxStudent(str(file)).eval()


def to_device(model: SpeechModel, device: str) -> SpeechModel:
    """Moves a model.

    Raises:
        ValueError: if there is no such device.
    """
    import torch

    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"--device {device}: not available here ({reason}); use --device cpu") from None


def _check_cpu(device: str, what: str) -> None:
    if device != "cpu":
        raise ValueError(f"--device {device}: {what} on the CPU; leave --device out")
