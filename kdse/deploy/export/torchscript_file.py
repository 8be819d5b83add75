"""A student as a TorchScript file: `torch.jit.load` runs it in Python or C++, without kdse."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdse.deploy.export.capture import with_plain_names
from kdse.deploy.export.graphs import step_graph
from kdse.deploy.export.whole import WholeSignal
from kdse.internals.torch import without_records
from kdse.machine.files import write_bytes
from kdse.models.base import SpeechModel

#: The entry of a file that holds the metadata.
ENTRY = "kdse.json"


def write_torchscript(
    model: SpeechModel, path: str | Path, streaming: bool, stft: str, metadata: dict[str, Any]
) -> None:
    """Writes a traced graph, complete with weights and metadata.

    A step file takes one hop and the states, one tensor each in the order of ``metadata["states"]``, and returns the
    enhanced hop and the next states; the batch is free. A file of whole signals takes ``[batch, samples]`` of any batch
    and of `WholeSignal.minimum_samples` samples or more; `kdse.models.TorchScript` serves it.

    Args:
        model: the student, on the CPU.
        path: the file.
        streaming: one hop a call; False for whole signals.
        stft: "inside" or "outside" (streaming only).
        metadata: JSON object for the entry "kdse.json" (``torch.jit.load(path, _extra_files={"kdse.json": ""})``).

    Raises:
        ValueError: if the model does not stream, or the file cannot be written.
    """
    graph: Any = step_graph(model, stft) if streaming else WholeSignal(model)
    program = trace(graph, graph.example(2) if streaming else graph.example())
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # (that torch.export is the newer way)
        torch.jit.save(program, buffer, _extra_files={ENTRY: json.dumps(metadata, sort_keys=True, allow_nan=False)})
    write_bytes(path, _without_debug_entries(buffer.getvalue()))


def trace(graph: nn.Module, example: Sequence[Tensor]) -> torch.jit.ScriptModule:
    """The graph as a TorchScript program; quiet: the lengths that PyTorch warns of are followed (the tests show it)."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = with_plain_names(copy.deepcopy(graph).eval())
        return torch.jit.trace(ready, tuple(example), check_trace=False)


def _without_debug_entries(content: bytes) -> bytes:
    """The same archive less the tables of source lines, which hold paths of the machine that wrote it."""
    made_anew = ("version", "byteorder", ".data/serialization_id")
    return without_records(content, lambda name: name.endswith(".debug_pkl") or name in made_anew)
