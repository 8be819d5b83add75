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
import pickletools
import re
import sys
import types
import typing
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as registration

import kdse
from kdse.errors import UserError, first_line
from kdse.machine.packages import PackageError
from kdse.models.base import SpeechModel
from kdse.models.published import recognised
from kdse.pretrained import LAST as LAST  # (beside PREVIOUS for those who read a run's checkpoints)
from kdse.pretrained import find, is_onnx, resolve
from kdse.pretrained.teachers import TEACHERS
from kdse.trust import MOST_EXTRA_TENSORS, MOST_EXTRA_VALUES, MOST_VALUES, check_numbers, require_harmless

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MODEL_PREFIX = "model."
#: The checkpoint of a run before `LAST`, in case that one is damaged.
PREVIOUS = "last.previous.ckpt"
#: What the pickle in a checkpoint may name: dense tensors with values, their types, and containers.
PLAIN = re.compile(
    r"torch\._utils _rebuild_(tensor_v[23]|parameter)|collections (OrderedDict|Counter)|__builtin__ (set|complex)|"
    r"torch (Size|device|[A-Z]\w*Storage|(b?float|u?int|complex)\d\w*|bool)|torch\.storage UntypedStorage"
)
#: Types of numbers that are read as float32. (What fits no float32 becomes infinite.)
READ_AS_FLOAT32 = (torch.float16, torch.bfloat16, torch.float64)


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


#: Most values of a checkpoint's pickle, which holds names and shapes. Our choice: hundreds of times those of ours.
MOST_PICKLED = 2**26


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads the checkpoint that a MODEL names as data only: no code in it can run, and memory is that of the file.

    Published weights of a network that kdse has (`kdse.models.published`) are given as its checkpoint.

    Raises:
        UserError: one line that names the file, if it is missing, cut short, corrupt, compressed, or holds anything but
            dense tensors and plain containers.
    """
    path = find(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    if is_onnx(path):
        raise UserError(f"{path}: is an exported file; give the checkpoint it came from")
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and "kdse" in content:  # torch itself compares no checksums
            with zipfile.ZipFile(path) as archive:  # (a flipped bit would be another weight)
                damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"checkpoint {path}: corrupt (the checksum of {damaged} is wrong); use another one")
    except UserError:
        raise
    except Exception as error:  # (torch raises whatever a damaged file leads to)
        raise UserError(f"checkpoint {path}: corrupt or cut short ({first_line(error)}); use another one") from None
    if isinstance(content, dict) and (found := recognised(content)) is not None:
        model, weights = found
        return {"state_dict": {f"{MODEL_PREFIX}{k}": v for k, v in weights.items()}, "kdse": describe(model)}
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(
            f"checkpoint {path}: has no state_dict, so it is neither a training checkpoint nor published weights that "
            "kdse knows"
        )
    return content


def _check_archive(path: Path) -> None:
    """Refuses what `torch.load` would take, but `torch.save` does not make of dense tensors and plain containers."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        # (entries that overlap are larger together than the file, as compressed ones can be)
        if any(entry.compress_type for entry in entries) or sum(e.file_size for e in entries) > path.stat().st_size:
            raise UserError(f"checkpoint {path}: is compressed, so it takes more memory than disk; save it anew")
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):  # (torch finds it in any case)
                pickled = archive.read(entry)
                if _values_of(pickled) > MOST_PICKLED:
                    raise UserError(f"checkpoint {path}: holds more than {MOST_PICKLED} values, so it is not loaded")
                for operation, name, _ in pickletools.genops(pickled):
                    if operation.name in ("GLOBAL", "STACK_GLOBAL", "INST") and not PLAIN.fullmatch(str(name)):
                        raise UserError(
                            f"checkpoint {path}: holds {str(name).replace(' ', '.')} besides dense tensors and plain "
                            "values, so it is not loaded (it could run code, or ask for any amount of memory)"
                        )


def _values_of(pickled: bytes) -> int:
    """The values that the largest object of a pickle stands for, each as often as others refer to it.

    (A tuple of two references to one tuple, forty times over, is small to load and takes years to hash.)
    """
    mark, stack, memo, largest = -1, [0], dict[Any, int](), 0
    for operation, key, _ in pickletools.genops(pickled):
        if "PUT" in operation.name or operation.name == "MEMOIZE":
            memo[len(memo) if key is None else key] = stack[-1]
        elif "GET" in operation.name:
            stack.append(memo.get(key, 1))
        else:
            taken, size = operation.stack_before, 1
            if pickletools.stackslice in taken or pickletools.markobject in taken:
                while len(stack) > 1 and (value := stack.pop()) != mark:
                    size += value
                taken = taken[: taken.index(pickletools.markobject)]
            for _ in taken:
                size += max(0, stack.pop()) if len(stack) > 1 else 0
            stack += [mark if kind is pickletools.markobject else size for kind in operation.stack_after]
            largest = max(largest, size)
            if largest > MOST_PICKLED:
                break
    return largest


def load_model(path: str | Path, trust_code: bool = False) -> SpeechModel:
    """Rebuilds the model of a kdse checkpoint (the student, or a teacher) with its weights, in eval mode.

    Needs no teacher, objectives or config. An ONNX file gives what runs it: `OnnxStudent` for a step file of
    `kdse export`, else `OnnxStream`, `OnnxSpectral` or `Onnx`. A class path gives the class with its default arguments.

    Args:
        path: a MODEL: a model in the box ("cruse-62k"), a run folder (RUN, or RUN:best), a checkpoint written by
            `kdse fit`, an ONNX file, a public denoiser ("ul-unas"), published weights (`kdse.models.published`), or a
            class path.
        trust_code: allow classes that kdse does not ship to be imported and run.

    Raises:
        UserError: if the file is corrupt, is not from kdse, names a class that is not trusted, or does not fit it.
    """
    named = resolve(path)
    if named.path is None:
        trusted = trust_code or bool(named.init_args) or str(path) in TEACHERS  # (of kdse's own choice)
        model = _build(resolve_class(named.class_path, trusted, str(path)), named.init_args, str(path))
        if not model.brings_weights:
            log.warning("%s: a class path, so its weights are random", path)
        return model.eval()
    if is_onnx(named.path):
        from kdse.models.onnx_student import load_onnx

        return load_onnx(named.path)
    content = read_checkpoint(named.path)
    about = content.get("kdse")
    if not isinstance(about, dict) or not isinstance(about.get("model"), dict):
        raise UserError(f"checkpoint {path}: was not written by kdse (it does not describe its model)")
    version = about.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"checkpoint {path}: format {version}, this kdse reads {FORMAT_VERSION}; update kdse")
    source, state = f"checkpoint {path}", content["state_dict"]
    cls = resolve_class(str(about["model"].get("class_path")), trust_code, source)
    if not trust_code:
        weights = [tensor for tensor in state.values() if isinstance(tensor, torch.Tensor)]
        # (what the file has room for, at 2 bytes each at least: a tensor can repeat one value without end)
        most = named.path.stat().st_size // 2 + MOST_EXTRA_VALUES
        _weights_for(check_size(about["model"], source, most, len(weights)), state, source)
    model = _build(cls, _arguments(about["model"]), source)
    load_weights(model, state, source)
    return model.eval()


def _build(cls: type[SpeechModel], init_args: dict[str, Any], source: str) -> SpeechModel:
    try:
        return cls(**init_args)
    except PackageError:  # (no fault of the checkpoint's)
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        raise UserError(f"{source}: {cls.__name__} cannot be built from it: {first_line(error)}") from None


def _arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    found = section.get("init_args")
    return found if isinstance(found, dict) else {}


def check_size(
    section: Mapping[str, Any], source: str, most_values: int = MOST_VALUES, tensors: int = 0
) -> SpeechModel:
    """The network that a file describes without its values (on the meta device), which takes no memory.

    Args:
        section, source: class_path and init_args; the file and the key in it, for messages.
        most_values: of all its parameters and buffers together.
        tensors: that are known of; `MOST_EXTRA_TENSORS` more are allowed.

    Raises:
        UserError: for a class that is not harmless, arguments that do not fit, and a network of more values or tensors.
    """
    cls = resolve_class(str(section.get("class_path")), False, source)
    init_args = _arguments(section)
    check_numbers(init_args, f"{source}: init_args")
    _check_scalars(cls, init_args, f"{source}: init_args")
    left = [most_values, tensors + MOST_EXTRA_TENSORS]

    def count(_: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        left[0] -= 0 if tensor is None else tensor.numel()
        left[1] -= 1
        if min(left) < 0:
            raise UserError(
                f"asks for more than {most_values} values, or too many tensors; the file is damaged, or a trap"
            )

    hooks = [registration.register_module_parameter_registration_hook(count)]
    hooks.append(registration.register_module_buffer_registration_hook(count))
    try:
        with torch.device("meta"):
            return _build(cls, init_args, source)
    finally:
        for hook in hooks:
            hook.remove()


def _check_scalars(cls: type, init_args: Mapping[str, Any], source: str) -> None:
    """Refuses anything else than a number, text or nothing for an argument that is one: a class may keep it unused."""
    scalars = (int, float, str, bool, type(None))
    for name, kind in typing.get_type_hints(cls.__init__).items():  # type: ignore[misc]  # (of a class, not an instance)
        union = typing.get_origin(kind) in (typing.Union, types.UnionType)
        if set(typing.get_args(kind) if union else [kind]) <= set(scalars) and not isinstance(
            init_args.get(name), scalars
        ):
            raise UserError(f"{source}.{name}: is a {type(init_args[name]).__name__} where one value is meant")


def resolve_class(class_path: str, trust_code: bool, source: str) -> type[SpeechModel]:
    """The model class behind a class path; without ``trust_code`` one that `kdse.trust` knows as harmless.

    A path in ``kdse.models`` whose module is not there, as an earlier version of kdse stored it, stands for the public
    class of its name.
    """
    if not trust_code:
        class_path = require_harmless(class_path, source)
    module_name, _, name = class_path.rpartition(".")
    models = vars(sys.modules["kdse.models"])
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        cls = models.get(name) if module_name.startswith("kdse.models.") else None
        if cls is None:
            known = [f"kdse.models.{name}" for name, value in models.items() if _is_model(value)]
            raise UserError(
                f"{source}: the class {class_path!r} does not exist here ({error}); kdse ships {', '.join(known)}"
            ) from None
    if not _is_model(cls):
        raise UserError(f"{source}: {class_path!r} is not a kdse model; kdse.models.Wrapped makes one of a module")
    return cls


def _is_model(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, SpeechModel) and value is not SpeechModel


def load_weights(model: nn.Module, state_dict: Mapping[str, Any], source: str) -> None:
    """Loads the ``"model."`` entries of a training checkpoint's state_dict, strictly.

    Weights of `READ_AS_FLOAT32` are converted, which is logged; of other types than the model's they are refused.

    Raises:
        UserError: naming the source and the first keys that do not fit.
    """
    weights = _weights_for(model, state_dict, source)
    own = model.state_dict()
    kinds = {str(tensor.dtype) for name, tensor in weights.items() if tensor.dtype != own[name].dtype}
    if kinds:
        log.warning("%s: its weights are %s; they are read as float32", source, ", ".join(sorted(kinds)))
    model.load_state_dict(weights)


def _weights_for(model: nn.Module, state_dict: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
    """The weights in a state_dict by the model's names, if they fit it (which may be one of the meta device)."""
    weights = {str(k)[len(MODEL_PREFIX) :]: v for k, v in state_dict.items() if str(k).startswith(MODEL_PREFIX)}
    own = model.state_dict()
    for name, expected in own.items():
        found = weights.get(name, expected)
        kind = getattr(found, "dtype", type(found).__name__)
        if kind != expected.dtype and not (expected.dtype == torch.float32 and kind in READ_AS_FLOAT32):
            raise UserError(f"{source}: holds {kind} for {name}, not {expected.dtype}; such weights are not converted")
    faults = {
        "lacks": [k for k in own if k not in weights],
        "has unknown": [k for k in weights if k not in own],
        "has other shapes for": [k for k in own if k in weights and own[k].shape != weights[k].shape],
    }
    details = [f"{what} {keys[:2]}{' ...' if len(keys) > 2 else ''}" for what, keys in faults.items() if keys]
    if details:
        raise UserError(f"{source}: is of another architecture than {type(model).__name__}: it {', '.join(details)}")
    return weights


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names and bytes of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
