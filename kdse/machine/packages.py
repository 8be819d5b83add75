"""Packages with compiled parts: imported when first used; one that cannot be is one sentence with the fix.

A compiled package fails on import in many ways: it is missing (ImportError), its library was built for another torch
or CUDA (OSError, RuntimeError), or it is a release without what kdse calls (AttributeError).
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from kdse.errors import PackageError

#: Releases of torch and torchaudio that work together, newest first. torchaudio's own metadata allows any later torch,
#: but 2.11.1 does not load beside torch 2.11.0, which lacks torch_exception_get_what_without_backtrace.
TORCH_PAIRS = (("2.14.1", "2.11.1"), ("2.11.0", "2.11.0"))


def required(module: str, attribute: str | None = None) -> Any:
    """A module of an installed package, or something in it.

    Args:
        module: dotted path; its first part is also the package's name for pip.
        attribute: what to take from it; None takes the module itself.

    Raises:
        PackageError: one sentence with the command that mends it, if the import fails, whatever it raises.
    """
    try:
        found = importlib.import_module(module)
        return found if attribute is None else getattr(found, attribute)
    except Exception as error:
        package = module.partition(".")[0]
        problem = _torchaudio(error) if package == "torchaudio" else _other(package, error)
        raise PackageError(problem) from error


def _other(package: str, error: Exception) -> str:
    if _is_missing(package, error):
        return f"the package {package} is not installed: pip install {package}"
    found = f"{package} {_version(package)} cannot be imported ({_reason(error)})"
    return f"{found}: pip install --force-reinstall {package}"


def _torchaudio(error: Exception) -> str:
    """Names the versions in the packages' metadata, since a broken torchaudio cannot be asked for its own."""
    torch, torchaudio = _version("torch"), _version("torchaudio")
    release = torch.split(".")[:2]
    pair = next((known for known in TORCH_PAIRS if known[0].split(".")[:2] == release), TORCH_PAIRS[0])
    packages = "'torch=={}' 'torchaudio=={}'".format(*pair)
    if _is_missing("torchaudio", error):
        return f"torchaudio is not installed beside torch {torch}: pip install {packages}"
    found = f"torchaudio {torchaudio} cannot be used with torch {torch} ({_reason(error)})"
    if pair == (torch.partition("+")[0], torchaudio.partition("+")[0]):
        # the releases fit, so one is damaged or built for another CUDA version, and pip would find nothing to do
        return f"{found}; get both for one CUDA version: pip install --force-reinstall {packages}"
    return f"{found}: pip install {packages}"


def _is_missing(package: str, error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == package


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # (only its folder is on the path)
        return "of unknown version"


def _reason(error: Exception) -> str:
    """The type and the end of the message: a loader's message begins with a long path."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 100 else '...' + text[-97:]}"
