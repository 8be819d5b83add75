"""A student as a file of `torch.export`: one graph of PyTorch's operators with its weights, loaded without kdse."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from kdse.deploy.export.capture import capture, quiet
from kdse.deploy.export.format import ExportFormat, Options
from kdse.deploy.export.graphs import Graph
from kdse.deploy.export.torchscript_file import ENTRY
from kdse.machine.files import write_bytes

#: What PyTorch notes at each operator about the Python code it came from.
ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom")


class Pt2File(ExportFormat):
    """A graph of one hop (batch 1) or of whole signals (any batch, any length), with arguments as in TorchScript files.

    ``torch.export.load(path, extra_files={"kdse.json": ""}).module()`` runs it and reads the metadata. Recurrent layers
    are one operator each (see `capture`).
    """

    name = "pt2"
    suffixes = (".pt2",)

    def write(self, graph: Graph, path: Path, options: Options, about: dict[str, Any]) -> None:
        program = capture(graph)
        _forget_origins(program)
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            entries = {ENTRY: json.dumps(about, sort_keys=True, allow_nan=False)}
            torch.export.save(program, buffer, extra_files=entries)
        write_bytes(path, buffer.getvalue())

    def program(self, path: Path) -> Callable[..., Any]:
        with quiet():
            return torch.export.load(str(path)).module()


def _forget_origins(program: ExportedProgram) -> None:
    """Takes out source lines, paths and class names, which tell of the machine and would need kdse to make sense."""
    for module in program.graph_module.modules():  # (what runs without autocast is a graph of its own)
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for origin in ORIGINS:
                    node.meta.pop(origin, None)


FORMAT = Pt2File()
