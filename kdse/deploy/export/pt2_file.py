"""A student as a file of `torch.export`: one graph of PyTorch's operators with its weights, loaded without kdse."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from kdse.deploy.export.capture import capture
from kdse.deploy.export.graphs import step_graph
from kdse.deploy.export.torchscript_file import ENTRY
from kdse.deploy.export.whole import WholeSignal
from kdse.machine.files import write_bytes
from kdse.models.base import SpeechModel

#: What PyTorch notes at each operator about the Python code it came from.
ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn", "custom")


def write_pt2(model: SpeechModel, path: str | Path, streaming: bool, stft: str, metadata: dict[str, Any]) -> None:
    """Writes the graph of one hop (batch 1) or of whole signals (any batch, any length), with weights and metadata.

    ``torch.export.load(path).module()`` runs it. Arguments and results are as in `write_torchscript`. Recurrent layers
    are one operator each (see `capture`).

    Args:
        model: the student, on the CPU.
        path: the file.
        streaming: one hop a call; False for whole signals.
        stft: "inside" or "outside" (streaming only).
        metadata: JSON object for the entry "kdse.json" (``torch.export.load(path, extra_files={"kdse.json": ""})``).

    Raises:
        ValueError: if the model does not stream, or the file cannot be written.
    """
    if streaming:
        step = step_graph(model, stft)
        program = capture(step, step.example(1))
    else:
        whole = WholeSignal(model)
        program = capture(whole, whole.example(), whole.dynamic_shapes())
    _forget_origins(program)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer, extra_files={ENTRY: json.dumps(metadata, sort_keys=True, allow_nan=False)})
    write_bytes(path, buffer.getvalue())


def _forget_origins(program: ExportedProgram) -> None:
    """Takes out source lines, paths and class names, which tell of the machine and would need kdse to make sense."""
    for module in program.graph_module.modules():  # (what runs without autocast is a graph of its own)
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for origin in ORIGINS:
                    node.meta.pop(origin, None)
