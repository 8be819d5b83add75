"""Keeps the ONNX optimiser from dropping small constants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def exact_rewrites() -> Iterator[None]:
    """Within the body, an addition is never taken out as one of zero, nor a product as one with 1.

    onnxscript (0.7) takes ``x + 1e-12`` for ``x + 0``: its rules compare constants with a tolerance of 1e-8. A floor
    that guards a root, a logarithm or a quotient against silence is then gone, and silence gives NaN. A file keeps at
    most a few needless operators; onnxruntime drops what really does nothing when it loads the file.
    """
    rewriter: Any
    from onnxscript import rewriter
    from onnxscript.rewriter.rules.common import _no_op

    inexact = {id(rule) for rule in _no_op.rules}
    before = rewriter._DEFAULT_REWRITE_RULES
    rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in before if id(rule) not in inexact)
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = before
