"""Checkpoints that describe themselves and load as data only. (`kdse.training.checkpoint_files` writes them.)

A kdse checkpoint is a Lightning checkpoint of tensors and plain containers with one more key, ``"kdse"``:

    {"format_version": 1, "kdse_version": "X.Y.Z", "sample_rate_hz": 16000,
     "model": {"class_path": "kdse.models.Cruse", "init_args": {"channels": [4, 8, 16, 24], ...}}}

The model's weights are the ``state_dict`` entries under ``"model."``. Everything is read with ``weights_only=True``,
and a class path resolves only to a model that kdse ships unless the caller trusts the file. Whatever reads one takes
what `kdse.pretrained` knows as a MODEL.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import kdse
from kdse.errors import UserError
from kdse.machine.packages import PackageError
from kdse.models.base import SpeechModel
from kdse.pretrained import LAST as LAST  # (beside PREVIOUS for those who read a run's checkpoints)
from kdse.pretrained import find, resolve

FORMAT_VERSION = 1
MODEL_PREFIX = "model."
#: The checkpoint of a run before `LAST`, in case that one is damaged.
PREVIOUS = "last.previous.ckpt"
TRUST = "--trust-code (kdse fit: --model.trust_code)"


def describe(model: SpeechModel) -> dict[str, Any]:
    """The ``"kdse"`` entry of a checkpoint that holds ``model``, whose constructor arguments must be plain data."""
    cls = type(model)
    return {
        "format_version": FORMAT_VERSION,
        "kdse_version": kdse.__version__,
        "sample_rate_hz": int(model.sample_rate_hz),
        "model": {
            "class_path": class_path_of(cls),
            "init_args": {name: _plain(value, name, cls) for name, value in model.init_args.items()},
        },
    }


def class_path_of(cls: type) -> str:
    """The class path that a checkpoint stores.

    The public path (``kdse.models.Cruse``) of a class that a package of kdse exports, so that its file can move;
    module and name of any other class.
    """
    parts = cls.__module__.split(".")
    packages = [".".join(parts[:count]) for count in range(1, len(parts))] if parts[0] == "kdse" else []
    public = next((p for p in packages if getattr(sys.modules.get(p), cls.__qualname__, None) is cls), cls.__module__)
    return f"{public}.{cls.__qualname__}"


def _plain(value: Any, name: str, cls: type) -> Any:
    if value is None or isinstance(value, (int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v, name, cls) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v, name, cls) for k, v in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise UserError(
        f"{cls.__name__}: argument {name!r} is a {type(value).__name__}, which a checkpoint cannot describe; "
        "use numbers, strings, lists and dictionaries only"
    )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads the checkpoint that a MODEL names as data only (no code in it can run).

    Raises:
        UserError: one line that names the file, if it is missing, cut short, corrupt or holds pickled objects.
    """
    path = find(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    if path.suffix == ".onnx":
        raise UserError(f"{path}: is an exported file; give the checkpoint it came from")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error) and zipfile.is_zipfile(path):
            raise UserError(
                f"checkpoint {path}: holds Python objects besides tensors, so it is not loaded (it could run code)"
            ) from None
        raise UserError(f"checkpoint {path}: corrupt or not a checkpoint; use another one") from None
    except Exception as error:  # (bytes that are no checkpoint can fail anywhere in the unpickler)
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint {path}: corrupt or cut short ({reason}); use another one") from None
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"checkpoint {path}: has no state_dict, so it is not a training checkpoint")
    if "kdse" in content:  # torch itself compares no checksums: a flipped bit would be another weight
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise UserError(f"checkpoint {path}: corrupt (the checksum of {damaged} is wrong); use another one")
    return content


def load_model(path: str | Path, trust_code: bool = False) -> SpeechModel:
    """Rebuilds the model of a kdse checkpoint (the student, or a teacher) with its weights, in eval mode.

    Needs no teacher, objectives or config. An ONNX file gives what runs it: `OnnxStudent` for a step file of
    `kdse export`, else `Onnx`. A class path gives the class with its default arguments.

    Args:
        path: a MODEL: a model in the box ("cruse-62k"), a run folder (RUN, or RUN:best), a checkpoint written by
            `kdse fit`, an ONNX file, or a class path.
        trust_code: allow classes that kdse does not ship to be imported and run.

    Raises:
        UserError: if the file is corrupt, is not from kdse, names a class that is not trusted, or does not fit it.
    """
    named = resolve(path)
    if named.path is None:
        model = _build(resolve_class(named.class_path, trust_code, str(path)), {}, str(path))
        if not model.brings_weights:
            logging.getLogger(__name__).warning("%s: a class path, so its weights are random", path)
        return model.eval()
    if named.path.suffix == ".onnx":
        from kdse.models.onnx_student import load_onnx

        return load_onnx(named.path)
    content = read_checkpoint(named.path)
    about = content.get("kdse")
    if not isinstance(about, dict) or not isinstance(about.get("model"), dict):
        raise UserError(f"checkpoint {path}: was not written by kdse (it does not describe its model)")
    version = about.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"checkpoint {path}: format {version}, this kdse reads {FORMAT_VERSION}; update kdse")
    cls = resolve_class(str(about["model"].get("class_path")), trust_code, source=f"checkpoint {path}")
    init_args = about["model"].get("init_args")
    model = _build(cls, init_args if isinstance(init_args, dict) else {}, f"checkpoint {path}")
    load_weights(model, content["state_dict"], source=f"checkpoint {path}")
    return model.eval()


def _build(cls: type[SpeechModel], init_args: dict[str, Any], source: str) -> SpeechModel:
    try:
        return cls(**init_args)
    except PackageError:  # (no fault of the checkpoint's)
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {cls.__name__} cannot be built from it: {error}") from None


def resolve_class(class_path: str, trust_code: bool, source: str) -> type[SpeechModel]:
    """The model class behind a class path.

    A class path alone can import and run code, so without ``trust_code`` only `SpeechModel`s defined inside kdse
    resolve, and among them not those that import further code themselves (``imports_code``). A path in ``kdse.models``
    whose module is not there, as an earlier version of kdse stored it, stands for the public class of its name.
    """
    module_name, _, name = class_path.rpartition(".")
    shipped = module_name == "kdse.models" or module_name.startswith("kdse.models.")
    if not shipped and not trust_code:
        raise UserError(f"{source}: names the class {class_path!r}, which kdse does not ship; {TRUST} allows it")
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        models = vars(sys.modules["kdse.models"])
        cls = models.get(name) if shipped else None
        if cls is None:
            known = [f"kdse.models.{name}" for name, value in models.items() if _is_model(value)]
            raise UserError(
                f"{source}: the class {class_path!r} does not exist here ({error}); kdse ships {', '.join(known)}"
            ) from None
    if not _is_model(cls):
        raise UserError(f"{source}: {class_path!r} is not a kdse model; kdse.models.Wrapped makes one of a module")
    if not trust_code and (cls.imports_code or not cls.__module__.startswith("kdse.models")):
        raise UserError(f"{source}: {class_path!r} imports code by name; {TRUST} allows it")
    return cls


def _is_model(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, SpeechModel) and value is not SpeechModel


def load_weights(model: torch.nn.Module, state_dict: dict[str, Any], source: str) -> None:
    """Loads the ``"model."`` entries of a training checkpoint's state_dict, strictly.

    A ValueError names the source and the first keys that do not fit.
    """
    weights = {k[len(MODEL_PREFIX) :]: v for k, v in state_dict.items() if k.startswith(MODEL_PREFIX)}
    own = model.state_dict()
    faults = {
        "lacks": [k for k in own if k not in weights],
        "has unknown": [k for k in weights if k not in own],
        "has other shapes for": [k for k in own if k in weights and own[k].shape != weights[k].shape],
    }
    details = [f"{what} {keys[:2]}{' ...' if len(keys) > 2 else ''}" for what, keys in faults.items() if keys]
    if details:
        raise UserError(f"{source}: is of another architecture than {type(model).__name__}: it {', '.join(details)}")
    model.load_state_dict(weights)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names and bytes of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
