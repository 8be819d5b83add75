"""kdse: distil large speech-enhancement models into tiny ones.

The import is light: the classes below are loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_LAZY = {
    "Enhancer": "kdse.enhancer",
    "Distiller": "kdse.distiller",
    "load_student": "kdse.models.checkpoint:load_model",
}
__all__ = ["Distiller", "Enhancer", "__version__", "load_student"]


if TYPE_CHECKING:  # type checkers see the classes themselves, and refuse names that are not there
    from kdse.distiller import Distiller
    from kdse.enhancer import Enhancer
    from kdse.models.checkpoint import load_model as load_student
else:

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'kdse' has no attribute {name!r}")
        module, _, attribute = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), attribute or name)
