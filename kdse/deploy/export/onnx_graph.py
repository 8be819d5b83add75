"""ONNX graphs as the bytes of a file: written without chatter and without a trace of the machine that wrote them."""

from __future__ import annotations

import json
from typing import Any

import torch

from kdse.deploy.export.capture import capture, quiet, recurrent_layers_kept
from kdse.deploy.export.graphs import Graph
from kdse.errors import UserError, first_line
from kdse.internals.library import MissingInternal
from kdse.internals.onnxscript import exact_rewrites
from kdse.machine.packages import required
from kdse.models.onnx_student import KEY

#: Versions of the operator set that files can be written in. PyTorch's exporter writes 18 and converts upwards;
#: onnxruntime 1.31 loads up to 26.
OPSETS = range(18, 27)
DEFAULT_OPSET = 20


def build(graph: Graph, opset: int = DEFAULT_OPSET) -> bytes:
    """A graph as an ONNX file: weights inside, constants folded, names and comments of the source out.

    Raises:
        ValueError: for an opset that cannot be written, a missing package, or a model that the exporter refuses.
    """
    if opset not in OPSETS:
        raise UserError(f"--opset {opset}: this exporter writes {OPSETS[0]} to {OPSETS[-1]}")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        required(name)
    program: Any
    try:
        with quiet(), exact_rewrites(), recurrent_layers_kept(), torch.no_grad():
            program = torch.onnx.export(
                capture(graph),
                graph.example(),
                dynamo=True,
                opset_version=opset,
                input_names=graph.input_names,
                output_names=graph.output_names,
                verbose=False,
            )
            proto = program.model_proto
    except MissingInternal:
        raise
    except Exception as error:  # the exporter has many classes of its own
        raise UserError(f"PyTorch's ONNX exporter refuses this model: {_reason(error)}") from error
    written = {entry.domain: entry.version for entry in proto.opset_import}.get("")
    if written != opset:
        raise UserError(f"--opset {opset}: this model can only be written in opset {written}; ask for that")
    _strip(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def with_metadata(content: bytes, about: dict[str, Any]) -> bytes:
    """The same file with ``about`` as its JSON entry "kdse", and no other entry."""
    import onnx

    proto = onnx.load_model_from_string(content)
    del proto.metadata_props[:]
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return bytes(proto.SerializeToString(deterministic=True))


def initializer_bytes(content: bytes) -> int:
    """Bytes of the weights and other constants in a file."""
    import numpy as np
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    tensors = onnx.load_model_from_string(content).graph.initializer
    return sum(int(np.prod(t.dims)) * tensor_dtype_to_np_dtype(t.data_type).itemsize for t in tensors)


def _strip(proto: Any) -> None:
    """Takes out what only describes where a graph came from: source lines, paths, class names, inner shapes."""
    graph = proto.graph
    del graph.value_info[:]
    items = [proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *proto.functions]
    for item in [*items, *(node for function in proto.functions for node in function.node)]:
        item.doc_string = ""
        del item.metadata_props[:]


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom of the exporter's stack of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"
