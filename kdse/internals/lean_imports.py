"""Importing Lightning without what it imports for others: two of the four seconds of processor time that it takes.

Last checked with lightning 2.6.6, torchmetrics 1.9.0 and lightning-utilities 0.15.3. With versions that do it another
way, imports are complete and take their time.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar
from unittest import mock

import torch

#: What torchmetrics imports for metrics that kdse has no use for, or for figures of its own.
NOT_NEEDED = ("torchvision", "matplotlib", "scipy", "pystoi", "pesq")
COMPILER = "torch._dynamo"

F = TypeVar("F", bound=Callable[..., Any])


def uncompiled(function: F, recursive: bool = True, reason: str | None = None) -> F:
    """`torch.compiler.disable`, which imports the compiler, without it: that is imported once something is compiled."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function, recursive, reason=reason)(*args, **kwargs)
        return function(*args, **kwargs)

    return run  # type: ignore[return-value]


def import_lightning() -> None:
    """Imports Lightning as it is without the compiler of PyTorch, and torchmetrics as it is without `NOT_NEEDED`.

    torchmetrics' image metrics and ``plot`` then say that a package is not met; who needs them imports torchmetrics
    before kdse starts. The compiler is imported when something uses it: optimizers, and ``torch.compile``. Nothing
    happens if Lightning is there already.
    """
    if "lightning" in sys.modules:
        return
    from lightning_utilities.core import imports

    check, available = imports.RequirementCache._check_requirement, imports.package_available

    def lean(self: Any) -> None:
        if self.requirement.partition(">")[0] in NOT_NEEDED:
            self.available, self.message = False, f"{self.requirement} is not met: kdse left it out to start faster"
        else:
            check(self)

    with (
        mock.patch.object(imports.RequirementCache, "_check_requirement", lean),
        mock.patch.object(imports, "package_available", lambda name: name not in NOT_NEEDED and available(name)),
    ):
        import torchmetrics  # noqa: F401
    if COMPILER in sys.modules:
        return
    compiler: Any = ModuleType(COMPILER)  # what Lightning wants of it: to know compiled modules, and to compile less
    compiler.OptimizedModule, compiler.disable = _OptimizedModule, uncompiled
    before = set(sys.modules)
    sys.modules[COMPILER] = compiler
    try:
        import lightning  # noqa: F401
    except (ImportError, AttributeError):  # (it wants more: it is imported again, as it is)
        for name in set(sys.modules) - before:
            del sys.modules[name]
    finally:
        sys.modules.pop(COMPILER, None)


class _Kind(type):
    def __instancecheck__(cls, value: object) -> bool:
        compiler = sys.modules.get(COMPILER)  # (nothing is compiled before it is imported)
        return compiler is not None and isinstance(value, compiler.OptimizedModule)


class _OptimizedModule(metaclass=_Kind):
    """`torch._dynamo.OptimizedModule`, for `isinstance` alone."""
