"""Data modules: mixtures from folders, paired folders, noisy recordings alone, and the embedded corpus.

Loaded when first used: the processes that generate the embedded corpus need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Mixtures": "kdse.data.mixtures",
    "NoisyFolder": "kdse.data.noisy",
    "PairedFolders": "kdse.data.paired",
    "SyntheticCorpus": "kdse.data.synthetic",
}
__all__ = ["Mixtures", "NoisyFolder", "PairedFolders", "SyntheticCorpus"]


if TYPE_CHECKING:  # type checkers see the classes themselves, and refuse names that are not there
    from kdse.data.mixtures import Mixtures
    from kdse.data.noisy import NoisyFolder
    from kdse.data.paired import PairedFolders
    from kdse.data.synthetic import SyntheticCorpus
else:

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module 'kdse.data' has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)
