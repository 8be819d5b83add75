"""`capture`: a module as a graph of PyTorch operators whose sizes may stay open, as `torch.export` sees it."""

from __future__ import annotations

import contextlib
import copy
import keyword
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from kdse.internals.torch import traced_as


def capture(graph: nn.Module, example: Sequence[Tensor], dynamic_shapes: Any = None) -> ExportedProgram:
    """Captures a module as an `ExportedProgram`; the module itself is not changed.

    Recurrent layers stay one operator each, for any number of frames. What PyTorch cannot prove about open sizes is
    left to the graph to check when it runs, instead of a reason to refuse.

    Args:
        graph: the module.
        example: its positional arguments.
        dynamic_shapes: as in `torch.export.export`; None for the shapes of the example.
    """
    ready = with_plain_names(copy.deepcopy(graph).eval())  # (tracing a recurrent layer leaves marks in the module)
    with recurrent_layers_kept(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            ready,
            tuple(example),
            dynamic_shapes=dynamic_shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=dynamic_shapes is not None,
        )
    return program


class _Escaped(nn.ModuleDict):
    """A dictionary of modules that answers to the old names and tells only the new ones."""

    def __init__(self, modules: nn.ModuleDict) -> None:
        super().__init__({_escaped(name): with_plain_names(part) for name, part in modules.items()})

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_escaped(key))


def _escaped(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name


def with_plain_names(graph: nn.Module) -> nn.Module:
    """Renames, in place, parts of dictionaries of modules whose names are words of Python.

    The source that PyTorch writes for a graph could not spell ``views.global.weight``; it becomes ``views.global_``.
    """
    for name, part in graph.named_children():
        if isinstance(part, nn.ModuleDict) and any(keyword.iskeyword(key) for key in part):
            setattr(graph, name, _Escaped(part))
        else:
            with_plain_names(part)
    return graph


def _gru_shapes(
    x: Tensor, hidden: Tensor, weights: Any, biases: Any, layers: Any, dropout: Any, train: Any, both: bool, first: Any
) -> tuple[Tensor, Tensor]:
    """Shapes of what ``aten.gru.input`` returns."""
    return x.new_empty(*x.shape[:2], hidden.shape[-1] * (1 + both)), torch.empty_like(hidden)


def _lstm_shapes(
    x: Tensor, start: Any, weights: Any, biases: Any, layers: Any, dropout: Any, train: Any, both: bool, first: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Shapes of what ``aten.lstm.input`` returns (without a projection)."""
    hidden, cell = start
    return x.new_empty(*x.shape[:2], hidden.shape[-1] * (1 + both)), torch.empty_like(hidden), torch.empty_like(cell)


def recurrent_layers_kept() -> contextlib.AbstractContextManager[None]:
    """Within the body, `torch.export` asks recurrent layers for their shapes only.

    PyTorch otherwise finds the shapes by unrolling the layer over its frames, which fixes their number. Its own way
    out, `torch.export._patches`, turns the layer into a while loop, which ONNX files cannot hold and which is slow.
    """
    aten: Any = torch.ops.aten
    return traced_as({aten.gru.input: _gru_shapes, aten.lstm.input: _lstm_shapes})
