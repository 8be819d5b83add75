"""A student as an ExecuTorch program (.pte), for phones and microcontrollers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from kdse.deploy.export.capture import capture
from kdse.deploy.export.graphs import step_graph
from kdse.deploy.export.gru_cell import gru_as_products
from kdse.deploy.export.onnx_file import quiet
from kdse.internals.library import MissingInternal
from kdse.machine.files import write_bytes
from kdse.models.base import SpeechModel

#: Who computes: ExecuTorch's portable C++ kernels, which build for any target, or XNNPACK on ARM and x86 CPUs.
DELEGATES = ("portable", "xnnpack")
INSTALL = "pip install 'kdse[executorch]'"


def write_executorch(
    model: SpeechModel, path: str | Path, stft: str, metadata: dict[str, Any], delegate: str = "portable"
) -> None:
    """Writes the graph of one hop, batch 1, with the states as inputs and outputs and the STFT outside.

    ``Runtime.get().load_program(path).load_method("forward").execute([spectrum, *states])`` runs it; the method
    "kdse" returns the metadata as a JSON string. GRUs become matrix products: ExecuTorch has no GRU.

    ExecuTorch goes with one torch: 1.2 with torch 2.11, 1.5.1 with torch 2.14. Beside torch 2.11, 1.5.1 lowers XNNPACK
    programs that fail as they run ("tensor does not have a device").

    Args:
        model: the student, on the CPU; one that streams.
        path: the file.
        stft: must be "outside": ExecuTorch has no Fourier transform, and devices have their own.
        metadata: JSON object.
        delegate: one of `DELEGATES`.

    Raises:
        ValueError: if the model does not stream, the STFT is not outside, the package is not installed, or ExecuTorch
            refuses the model.
    """
    if stft != "outside":
        raise ValueError("--format executorch: has no Fourier transform; add --stft outside")
    if delegate not in DELEGATES:
        raise ValueError(f"--delegate {delegate}: use {' or '.join(DELEGATES)}")
    step = step_graph(model, stft)
    try:
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    except ImportError as error:
        raise ValueError(f"--format executorch: needs the package executorch ({error}): {INSTALL}") from None
    parts: list[Any] = []
    if delegate == "xnnpack":
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        parts = [XnnpackPartitioner()]
    strided = {name: buffer for name, buffer in model.named_buffers() if not buffer.is_contiguous()}
    try:
        with quiet(), torch.no_grad(), gru_as_products(model):
            for name, buffer in strided.items():  # (lowering loses constants that are views of others)
                _set_buffer(model, name, buffer.contiguous())
            program = capture(step, step.example(1))
            lowered = to_edge_transform_and_lower(
                program,
                partitioner=parts,
                constant_methods={"kdse": json.dumps(metadata, sort_keys=True, allow_nan=False)},
                compile_config=EdgeCompileConfig(_check_ir_validity=False),  # (its running sums are float64)
            )
            content = bytes(lowered.to_executorch().buffer)
    except MissingInternal:
        raise
    except Exception as error:  # it has many classes of its own
        logging.getLogger(__name__).debug("lowering failed", exc_info=True)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"ExecuTorch refuses this model: {reason}") from error
    finally:
        for name, buffer in strided.items():
            _set_buffer(model, name, buffer)
    write_bytes(path, content)


def load_executorch(path: str | Path) -> Any:
    """A function from ``(spectrum, *states)`` to ``(enhanced spectrum, *next states)``, and its metadata."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(str(path))
    forward = program.load_method("forward")

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        # what comes out lies in the program's own memory, which the next call overwrites
        return [value.clone() for value in forward.execute([tensor.contiguous() for tensor in tensors])]

    run.program = program  # type: ignore[attr-defined]  # (the method lives no longer than its program)
    return run, json.loads(program.load_method("kdse").execute([])[0])


def _set_buffer(model: torch.nn.Module, name: str, value: torch.Tensor) -> None:
    owner, _, own_name = name.rpartition(".")
    setattr(model.get_submodule(owner), own_name, value)
