"""The MODEL of a command: its options, label, device and backend. (`kdse.pretrained` says what it can name.)"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.commands.parser import Parser, name_and_value
from kdse.errors import PackageError, UserError, first_line
from kdse.machine.cache import cache_root
from kdse.machine.files import write_bytes
from kdse.machine.packages import required
from kdse.pretrained import MODEL, Named, exported, is_onnx, resolve
from kdse.pretrained.teachers import TEACHERS

if TYPE_CHECKING:
    from kdse.models.base import SpeechModel


TRUST_CODE = "let checkpoints and configs name classes that kdse does not mark as harmless, and run them"


def add_model(parser: Parser, *flags: str, help: str = MODEL, **settings: Any) -> None:
    """Adds MODEL under a name or flags, --init and --trust-code."""
    parser.add_argument(*flags, **({"metavar": "MODEL", "help": help} | settings))
    parser.add_argument(
        "--init", metavar="NAME=VALUE", action="append", type=name_and_value, default=[],
        help="constructor argument for a class path or an .onnx file, value in YAML, e.g. "
        "--init channels='[8,16,32,32]', --init hop=256; repeatable",
    )  # fmt: skip
    parser.add_argument("--trust-code", action="store_true", help=TRUST_CODE)


def named_model(arguments: argparse.Namespace) -> Named:
    """What the MODEL of a command that takes one names."""
    return _with_init([resolve(arguments.model)], arguments.init)[0]


def name_and_path(text: str) -> tuple[str, str]:
    """Name and path of ``NAME=PATH``; no name for a path alone."""
    name, equals, path = text.partition("=")
    return ("", text) if not equals or Path(text).exists() else (name, path)


def labelled(texts: Sequence[str], init: Sequence[tuple[str, Any]]) -> dict[str, Named]:
    """What each ``MODEL`` or ``LABEL=MODEL`` names, by its label. --init is for those that are class paths.

    Raises:
        UserError: for a missing file, a label given twice, or --init and no class path.
    """
    from kdse.evaluation.systems import check_label

    found: dict[str, Named] = {}
    for text in texts:
        label, where = name_and_path(text)
        named = resolve(where)
        if named.path is not None and not named.path.is_file():
            raise UserError(f"checkpoint {named.path}: no such file")
        label = label or named.label
        check_label(label, found)
        found[label] = named
    return dict(zip(found, _with_init(list(found.values()), init), strict=True))


def run_of(named: Named) -> Path | None:
    """The run folder that a model lies in, for what a command writes beside it; None if it lies in none."""
    from kdse.run.folder import run_folder_of

    return None if named.path is None else run_folder_of(named.path)


def _with_init(models: Sequence[Named], init: Sequence[tuple[str, Any]]) -> list[Named]:
    """The models with --init: arguments of those that are class paths, and the front end of those in ONNX files."""
    if not init:
        return list(models)
    if all(named.path is not None and not is_onnx(named.path) for named in models):
        raise UserError("--init: is for a class path, a checkpoint stores its own arguments; leave --init out")
    given = dict(init)
    return [
        named._replace(path=None, class_path="kdse.models.OnnxStream", init_args={"path": str(named.path)} | given)
        if is_onnx(named.path)
        else named._replace(init_args=named.init_args | given)
        for named in models
    ]


def open_model(named: Named, arguments: argparse.Namespace) -> SpeechModel:
    """The model in eval mode, of the options that `add_model` added.

    Raises:
        UserError: if there is no such file or class, or the class cannot be built with --init.
    """
    from kdse.models.checkpoint import load_model, resolve_class
    from kdse.seeding import seeded

    if named.path is not None:
        return load_model(named.path, trust_code=arguments.trust_code)
    name, init = named.class_path, named.init_args
    cls = resolve_class(name, trust_code=True, source="MODEL")  # (who types a class path trusts it)
    try:
        inspect.signature(cls).bind(**init)
    except TypeError as error:
        known = ", ".join(inspect.signature(cls).parameters)
        raise UserError(f"--init: {name} {error}; its arguments are {known}") from None
    try:
        with seeded("model", 0):
            return cls(**init).eval()
    except (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError) as error:
        raise UserError(f"--init: {name} cannot be built with {init}: {first_line(error)}") from None


def checkpoint_file(
    named: Named, arguments: argparse.Namespace, folder: Path, sample_rate_hz: int | None = None
) -> Path:
    """The file of a model; a class is built and saved in ``folder``.

    A public denoiser of another sample rate than the one that is given is brought to it.
    """
    if named.path is not None:
        return named.path
    import torch

    from kdse.models.aligned import Aligned
    from kdse.models.checkpoint import MODEL_PREFIX, describe

    model = open_model(named, arguments)
    if named.label in TEACHERS and sample_rate_hz not in (None, model.sample_rate_hz):
        model = Aligned(model, sample_rate_hz, delay_samples=0, gain=1.0)
    weights = {f"{MODEL_PREFIX}{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"kdse": describe(model), "state_dict": weights}, folder / f"{named.label}.ckpt")
    return folder / f"{named.label}.ckpt"


@contextlib.contextmanager
def failures_explained(model: SpeechModel, seconds: float) -> Iterator[None]:
    """Makes one line of what a model's layers raise on a probe clip (too short, wrong axes)."""
    try:
        yield
    except (RuntimeError, TypeError, IndexError) as error:
        raise UserError(
            f"{type(model).__name__} fails on a clip of {seconds:g} s ({first_line(error)}); check its arguments, or "
            "try another --seconds"
        ) from error


def checked_device(name: str) -> str:
    """The device of --device, refused if it cannot be used here; "auto" is the GPU if there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not available here ({first_line(error)}); use --device cpu") from None
    return name


def open_in_backend(arguments: argparse.Namespace) -> tuple[SpeechModel, str]:
    """The model of --checkpoint, --backend and --device, and what to call it."""
    try:
        named = named_model(arguments)
    except UserError as error:
        raise UserError(f"--checkpoint {error}") from None
    backend, graph = arguments.backend, is_onnx(named.path)
    if arguments.device != "cpu" and (graph or backend == "onnx"):
        what = f"{named.label} runs" if graph else "--backend onnx runs"
        raise UserError(f"--device {arguments.device}: {what} on the CPU; leave --device out")
    if backend == "auto":
        backend = "onnx" if arguments.device == "cpu" and _runs_graphs() else "torch"
    boxed = exported(named.path) if backend == "onnx" and named.path is not None else None
    model = open_model(named if boxed is None else named._replace(path=boxed), arguments)
    if graph or boxed:
        return model, f"{arguments.model} in ONNX Runtime"
    if arguments.backend == "onnx" or (backend == "onnx" and (kept := _graph_of(model)) and kept.is_file()):
        return to_onnx(model, named.path), f"{arguments.model} in ONNX Runtime"
    return model.to(checked_device(arguments.device)), f"{arguments.model} in PyTorch"


def _runs_graphs() -> bool:
    try:
        required("onnxruntime")
    except PackageError:
        return False
    return True


def _graph_of(model: SpeechModel) -> Path | None:
    """Where a model's exported graph is kept: by weights, arguments and version of kdse; None if it cannot be."""
    from kdse.models.checkpoint import describe, fingerprint

    try:
        about = json.dumps([describe(model), fingerprint(model)], sort_keys=True)
        return cache_root() / "onnx" / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.onnx"
    except UserError:  # (it has arguments that no file holds, or there is no home)
        return None


def to_onnx(model: SpeechModel, checkpoint: Path | None) -> SpeechModel:
    """The same student in ONNX Runtime; its graph is exported once, which checks that the two agree, and kept.

    Raises:
        UserError: if the model does not stream, so that it has no graph of one hop.
    """
    from kdse.models.streaming import can_stream

    if not can_stream(model):
        raise UserError(f"--backend onnx: {type(model).__name__} does not stream; use --backend torch")
    from kdse.models.onnx_student import OnnxStudent

    kept = _graph_of(model)
    if kept is not None and kept.is_file():
        with contextlib.suppress(UserError):  # (what is damaged is made again)
            return OnnxStudent(str(kept)).eval()
    from kdse.deploy.export.write import export_file

    with tempfile.TemporaryDirectory(prefix="kdse-onnx-") as folder:
        file = Path(folder) / "student.onnx"
        export_file(model, file, checkpoint=checkpoint)
        with contextlib.suppress(UserError):  # (a cache that cannot be written costs the next call some seconds)
            if kept is not None:
                write_bytes(kept, file.read_bytes())
        return OnnxStudent(str(file)).eval()
