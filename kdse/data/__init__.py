"""Data modules: mixtures from folders, paired folders, noisy recordings alone, and the embedded corpus.

Loaded when first used: the processes that generate the embedded corpus need no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "Mixtures": "kdse.data.mixtures",
    "NoisyFolder": "kdse.data.noisy",
    "PairedFolders": "kdse.data.paired",
    "SyntheticCorpus": "kdse.data.synthetic",
}
__all__ = ["Mixtures", "NoisyFolder", "PairedFolders", "SyntheticCorpus"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kdse.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
