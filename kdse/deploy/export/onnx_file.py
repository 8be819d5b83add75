"""A student as an ONNX file, in float32 or with 8-bit weights: ONNX Runtime runs it, and so do kdse's own commands."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from kdse.deploy.export import onnx_graph
from kdse.deploy.export.format import ExportFormat, Options
from kdse.deploy.export.graphs import Graph
from kdse.deploy.export.gru_cell import gru_as_products
from kdse.deploy.export.quantise import QUANTIZE, quantise_file
from kdse.models.base import SpeechModel
from kdse.models.onnx_student import load_onnx


class OnnxFile(ExportFormat):
    """An ONNX graph with its weights inside; the metadata is its entry "kdse"."""

    name = "onnx"
    suffixes = (".onnx",)
    own_options = ("opset", "quantize")

    def write(self, graph: Graph, path: Path, options: Options, about: dict[str, Any]) -> None:
        opset = onnx_graph.DEFAULT_OPSET if options.opset is None else options.opset
        # quantisers know matrix products and leave GRUs alone
        with contextlib.nullcontext() if options.quantize is None else gru_as_products(graph):
            content = onnx_graph.build(graph, opset)
        path.write_bytes(onnx_graph.with_metadata(content, about))
        if options.quantize is not None:
            about["quantized"] = quantise_file(path, path, QUANTIZE[options.quantize], options.calibration)

    def update(self, graph: Graph, path: Path, options: Options, about: dict[str, Any]) -> bool:
        path.write_bytes(onnx_graph.with_metadata(path.read_bytes(), about))
        return False

    def load(self, path: Path, about: dict[str, Any]) -> SpeechModel:
        return load_onnx(path)

    def constant_bytes(self, path: Path) -> int | None:
        return onnx_graph.initializer_bytes(path.read_bytes())


FORMAT = OnnxFile()
