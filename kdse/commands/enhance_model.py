"""The model of `kdse enhance`: one from the box, a checkpoint or an exported file, through torch or ONNX Runtime."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kdse import pretrained

if TYPE_CHECKING:
    from kdse.models.base import SpeechModel

BACKENDS = ("torch", "onnx")


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
    from kdse.checkpoint import load_model

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
    from kdse.deploy.streaming import can_stream

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
