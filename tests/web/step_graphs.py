"""Small step graphs made by hand, of the form that `kdse export` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOP, RATE = 64, 16000


def metadata(**changes: Any) -> dict[str, Any]:
    """Of a graph that answers with the hop before, and counts its hops in float64."""
    states = [
        {"name": "past", "shape": [1, HOP], "dtype": "float32"},
        {"name": "count", "shape": [1, 1], "dtype": "float64"},
    ]
    about = {
        "format_version": 1, "kind": "step", "stft": "inside", "kdse_version": "0.1.0", "sample_rate_hz": RATE,
        "hop_samples": HOP, "latency_samples": 2 * HOP, "lookahead_samples": 0, "causal": True, "states": states,
        "model": {"class_path": "kdse.models.Toy", "init_args": {}}, "parameters": 1234567, "weights_sha256": "a1" * 32,
    }  # fmt: skip
    return {**about, **changes}


def write_graph(path: Path, about: dict[str, Any] | None) -> Path:
    import onnx
    from onnx import TensorProto, helper

    single, double = TensorProto.FLOAT, TensorProto.DOUBLE
    nodes = [
        helper.make_node("Identity", ["state.past"], ["enhanced"]),
        helper.make_node("Identity", ["audio"], ["next.past"]),
        helper.make_node("Add", ["state.count", "one"], ["next.count"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "toy",
        [info("audio", single, [1, HOP]), info("state.past", single, [1, HOP]), info("state.count", double, [1, 1])],
        [info("enhanced", single, [1, HOP]), info("next.past", single, [1, HOP]), info("next.count", double, [1, 1])],
        [helper.make_tensor("one", double, [1, 1], [1.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if about is not None:
        helper.set_model_props(model, {"kdse": json.dumps(about)})
    onnx.save(model, str(path))
    return path
