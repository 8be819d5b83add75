"""The MODEL argument of `kdse taps` and `kdse profile`: a checkpoint, or a class path with `--init`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from kdse.checkpoint import load_model
from kdse.models.base import SpeechModel
from kdse.pretrained import located
from kdse.seeding import seeded


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
    return isinstance(cls, type) and issubclass(cls, SpeechModel) and cls is not SpeechModel
