"""What kdse uses of onnxscript beyond its public API. It was last checked with 0.7.2."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kdse.internals.library import Library

ONNXSCRIPT = Library("onnxscript", "0.7.1", "onnxscript>=0.7.1,<0.8")


@contextlib.contextmanager
def exact_rewrites() -> Iterator[None]:
    """Within the body, an addition is never taken out as one of zero, nor a product as one with 1.

    onnxscript takes ``x + 1e-12`` for ``x + 0``: its rules compare constants with a tolerance of 1e-8. A floor that
    guards a root, a logarithm or a quotient is then gone, and silence gives NaN.

    Takes ``rules`` of ``rewriter.rules.common._no_op`` out of ``rewriter._DEFAULT_REWRITE_RULES``: nothing has an
    argument for the rules, and `optimize=False` of `torch.onnx.export` would leave out constant folding too.
    """
    inexact = {id(rule) for rule in ONNXSCRIPT.load("onnxscript.rewriter.rules.common._no_op", "rules")}
    before = ONNXSCRIPT.load("onnxscript.rewriter", "_DEFAULT_REWRITE_RULES")
    kept = tuple(rule for rule in before if id(rule) not in inexact)
    if len(kept) == len(before):
        raise ONNXSCRIPT.missing("rule of `_no_op` in onnxscript.rewriter._DEFAULT_REWRITE_RULES")
    rewriter: Any
    from onnxscript import rewriter

    ONNXSCRIPT.put(rewriter, "_DEFAULT_REWRITE_RULES", kept)
    try:
        yield
    finally:
        ONNXSCRIPT.put(rewriter, "_DEFAULT_REWRITE_RULES", before)
