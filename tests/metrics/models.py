"""Model files of the right form for DNSMOS and SQUIM, small or with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

#: The graph of `tiny_dnsmos` is ``mean |x| GAIN + OFFSET``.
GAIN, OFFSET = (20.0, -4.0, 7.5), (1.5, 3.0, 2.0)


def tiny_dnsmos(path: Path, samples: int | str = 144160, outputs: int = 3) -> str:
    """An ONNX graph ``[N, samples] -> [N, outputs]`` instead of Microsoft's network."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    constants = {"axes": np.array([1]), "gain": np.array([GAIN[:outputs]]), "offset": np.array([OFFSET[:outputs]])}
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["audio"], ["level"]),
            helper.make_node("ReduceMean", ["level", "axes"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", "gain"], ["scaled"]),
            helper.make_node("Add", ["scaled", "offset"], ["rating"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["N", samples])],
        [helper.make_tensor_value_info("rating", TensorProto.FLOAT, ["N", outputs])],
        [
            numpy_helper.from_array(value.astype(np.int64 if name == "axes" else np.float32), name)
            for name, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    save(model, str(path))
    return str(path)


def random_squim(path: Path) -> str:
    """A state dict of torchaudio's model with random weights."""
    import torch
    from torchaudio.models import squim_objective_base

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(squim_objective_base().state_dict(), path)
    return str(path)
