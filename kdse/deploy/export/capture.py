"""`capture`: a graph as PyTorch operators whose sizes may stay open, as `torch.export` sees it."""

from __future__ import annotations

import contextlib
import copy
import io
import keyword
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from kdse.deploy.export.graphs import Graph
from kdse.internals.torch import traced_as


def capture(graph: Graph) -> ExportedProgram:
    """Captures a graph as an `ExportedProgram`; the graph itself is not changed.

    Recurrent layers stay one operator each, for any number of frames. What PyTorch cannot prove about open sizes is
    left to the program to check when it runs, instead of a reason to refuse.
    """
    dynamic_shapes = graph.dynamic_shapes()
    ready = with_plain_names(copy.deepcopy(graph).eval())  # (tracing a recurrent layer leaves marks in the module)
    with recurrent_layers_kept(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            ready,
            graph.example(),
            dynamic_shapes=dynamic_shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=dynamic_shapes is not None,
        )


class _Escaped(nn.ModuleDict):
    """A dictionary of modules that answers to the old names and tells only the new ones."""

    def __init__(self, modules: nn.ModuleDict) -> None:
        super().__init__({_escaped(name): with_plain_names(part) for name, part in modules.items()})

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_escaped(key))


def _escaped(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name


def with_plain_names(graph: nn.Module) -> nn.Module:
    """Renames, in place, parts of module dictionaries named by words of Python: ``views.global`` to ``views.global_``.

    The source that PyTorch writes for a graph could not spell them.
    """
    for name, part in graph.named_children():
        if isinstance(part, nn.ModuleDict) and any(keyword.iskeyword(key) for key in part):
            setattr(graph, name, _Escaped(part))
        else:
            with_plain_names(part)
    return graph


def _recurrent_shapes(
    x: Tensor, start: Any, weights: Any, biases: Any, layers: Any, dropout: Any, train: Any, both: bool, first: Any
) -> tuple[Tensor, ...]:
    """Shapes of what ``aten.gru.input`` and ``aten.lstm.input`` (without a projection) return."""
    states = (start,) if isinstance(start, Tensor) else start
    output = x.new_empty(*x.shape[:2], states[0].shape[-1] * (1 + both))
    return output, *(torch.empty_like(state) for state in states)


def recurrent_layers_kept() -> contextlib.AbstractContextManager[None]:
    """Within the body, `torch.export` asks recurrent layers for their shapes only.

    PyTorch otherwise finds the shapes by unrolling the layer over its frames, which fixes their number. Its own way
    out, `torch.export._patches`, turns the layer into a while loop, which ONNX files cannot hold and which is slow.
    """
    aten: Any = torch.ops.aten
    return traced_as(dict.fromkeys((aten.gru.input, aten.lstm.input), _recurrent_shapes))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the reports, warnings and log of exporters off both streams."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        streams = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), streams[0], streams[1]:
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
