"""Writing a graph as one ONNX file, without chatter and without a trace of the machine that wrote it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdse.deploy.export.capture import capture, recurrent_layers_kept
from kdse.internals.library import MissingInternal
from kdse.internals.onnxscript import exact_rewrites
from kdse.machine.packages import PackageError, required
from kdse.models.foreign import first_line

#: Versions of the operator set that files can be written in. PyTorch's exporter writes 18 and converts upwards;
#: onnxruntime 1.31 loads up to 26.
OPSETS = range(18, 27)
DEFAULT_OPSET = 20
KEY = "kdse"


def build(
    graph: nn.Module,
    example: Sequence[Tensor],
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = DEFAULT_OPSET,
    dynamic_shapes: Any = None,
) -> bytes:
    """A module as the bytes of an ONNX file: weights inside, constants folded, names and comments of the source out.

    Args:
        graph: what to export; it is not changed.
        example: inputs of the right shapes and types.
        input_names, output_names: as in the file.
        opset: version of the operator set.
        dynamic_shapes: as in `torch.export.export`; None for the shapes of the example.

    Raises:
        ValueError: for an opset that cannot be written, a missing package, or a model that the exporter refuses.
    """
    if opset not in OPSETS:
        raise ValueError(f"--opset {opset}: this exporter writes {OPSETS[0]} to {OPSETS[-1]}")
    _require_packages()
    program: Any
    try:
        with quiet(), exact_rewrites(), recurrent_layers_kept(), torch.no_grad():
            program = torch.onnx.export(
                capture(graph, example, dynamic_shapes),
                tuple(example),
                dynamo=True,
                opset_version=opset,
                input_names=list(input_names),
                output_names=list(output_names),
                verbose=False,
            )
            proto = program.model_proto
    except MissingInternal:
        raise
    except Exception as error:  # the exporter has many classes of its own
        raise ValueError(f"PyTorch's ONNX exporter refuses this model: {_reason(error)}") from error
    written = {entry.domain: entry.version for entry in proto.opset_import}
    if written.get("") != opset:
        raise ValueError(f"--opset {opset}: this model can only be written in opset {written.get('')}; ask for that")
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
    graphs = [proto.graph, *proto.functions]
    proto.doc_string = ""
    del proto.metadata_props[:]
    del proto.graph.value_info[:]
    for part in graphs:
        items = [part, *part.node]
        if part is proto.graph:
            items += [*part.initializer, *part.input, *part.output]
        for item in items:
            item.doc_string = ""
            del item.metadata_props[:]


def _require_packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            required(name)
        except PackageError as error:
            raise PackageError(f"--format onnx: {error}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporter's reports, warnings and log off both streams."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        streams = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), streams[0], streams[1]:
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom of the exporter's stack of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"
