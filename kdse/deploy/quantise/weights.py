"""Weights of an ONNX graph as 8-bit integers, and which operators have them."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Operators with weights that are worth storing in 8 bits: all of them multiply by a constant second input.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def weighted_nodes(graph: Any) -> list[Any]:
    """The nodes of a graph that multiply by a float32 constant."""
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == 1}
    return [node for node in graph.node if node.op_type in WEIGHTED and node.input[1] in floats]


def first_weighted(graph: Any) -> list[str]:
    """Names of the weighted nodes that the signal, the graph's first input, reaches through no other weighted node.

    In CRUSE that is the mel matrix: its input are raw magnitudes, which span far more than 8 bits hold.
    """
    weighted = {node.name for node in weighted_nodes(graph)}
    reached, found = {graph.input[0].name}, []
    for node in graph.node:  # (ONNX keeps nodes in the order in which they run)
        if reached.isdisjoint(node.input):
            continue
        if node.name in weighted:
            found.append(node.name)
        else:
            reached.update(node.output)
    return found


def store_in_8_bits(model: Any) -> list[str]:
    """Replaces every float32 weight by int8 values, one scale per output channel, and a DequantizeLinear node.

    The scale is the channel's largest magnitude / 127, so no weight moves by more than half a scale. Biases stay.

    Args:
        model: an `onnx.ModelProto`; it is changed.

    Returns:
        Names of the nodes that got such weights; they take activations in float.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = weighted_nodes(graph)
    axes = {node.input[1]: _channel_axis(node, len(constants[node.input[1]].dims)) for node in nodes}
    for name, axis in axes.items():
        values, scale = _rounded(numpy_helper.to_array(constants[name]), axis)
        graph.initializer.remove(constants[name])
        graph.initializer.extend(
            [numpy_helper.from_array(values, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
        )
        inputs = [f"{name}.int8", f"{name}.scale"]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}.float", axis=axis))
    return [node.name for node in nodes]


def _rounded(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.abs(weight).max(axis=others) / 127).astype(np.float32)
    scale[scale == 0] = 1
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return np.rint(weight / scale.reshape(shape)).clip(-127, 127).astype(np.int8), scale


def _channel_axis(node: Any, rank: int) -> int:
    """The axis of a node's weight that becomes its output's channels."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}[node.op_type]
