"""A student as an ExecuTorch program (.pte), for phones and microcontrollers."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdse.deploy.export.capture import capture, quiet
from kdse.deploy.export.format import ExportFormat, Options
from kdse.deploy.export.graphs import Graph
from kdse.deploy.export.gru_cell import gru_as_products
from kdse.errors import UserError, shortened
from kdse.internals.library import MissingInternal
from kdse.machine.files import write_bytes

#: Who computes: ExecuTorch's portable C++ kernels, which build for any target, or XNNPACK on ARM and x86 CPUs.
DELEGATES = ("portable", "xnnpack")


class ExecutorchFile(ExportFormat):
    """A graph of one hop, batch 1, without its STFT: ExecuTorch has no Fourier transform, and devices have their own.

    ``Runtime.get().load_program(path).load_method("forward").execute([spectrum, *states])`` runs it; the method "kdse"
    returns the metadata as a JSON string. GRUs become matrix products: ExecuTorch has no GRU.

    ExecuTorch goes with one torch: 1.2 with torch 2.11, 1.5.1 with torch 2.14. Beside torch 2.11, 1.5.1 lowers XNNPACK
    programs that fail as they run ("tensor does not have a device").
    """

    name = "executorch"
    suffixes = (".pte",)
    whole = False
    stft = ("outside",)
    own_options = ("delegate",)

    def write(self, graph: Graph, path: Path, options: Options, about: dict[str, Any]) -> None:
        delegate = options.delegate or DELEGATES[0]
        if delegate not in DELEGATES:
            raise UserError(f"--delegate {delegate}: use {' or '.join(DELEGATES)}")
        try:
            from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
        except ImportError as error:
            install = "pip install 'kdse[executorch]'"
            raise UserError(f"--format executorch: needs the package executorch ({error}): {install}") from None
        parts: list[Any] = []
        if delegate == "xnnpack":
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

            parts = [XnnpackPartitioner()]
        graph = copy.deepcopy(graph)
        for module in graph.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.contiguous())  # (lowering loses constants that are views of others)
        try:
            with quiet(), torch.no_grad(), gru_as_products(graph):
                lowered = to_edge_transform_and_lower(
                    capture(graph),
                    partitioner=parts,
                    constant_methods={"kdse": json.dumps(about, sort_keys=True, allow_nan=False)},
                    compile_config=EdgeCompileConfig(_check_ir_validity=False),  # (its running sums are float64)
                )
                content = bytes(lowered.to_executorch().buffer)
        except MissingInternal:
            raise
        except Exception as error:  # it has many classes of its own
            logging.getLogger(__name__).debug("lowering failed", exc_info=True)
            raise UserError(f"ExecuTorch refuses this model: {shortened(error)}") from error
        write_bytes(path, content)

    def update(self, graph: Graph, path: Path, options: Options, about: dict[str, Any]) -> bool:
        """Leaves the file as it is, without the parity in its metadata: lowering it again would take a minute."""
        return False

    def program(self, path: Path) -> Callable[..., Any]:
        return load_executorch(path)[0]


def load_executorch(path: Path) -> tuple[Callable[..., list[torch.Tensor]], dict[str, Any]]:
    """A function from ``(spectrum, *states)`` to ``(enhanced spectrum, *next states)``, and its metadata."""
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(str(path))
    forward = program.load_method("forward")

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        # what comes out lies in the program's own memory, which the next call overwrites
        return [value.clone() for value in forward.execute([tensor.contiguous() for tensor in tensors])]

    run.program = program  # type: ignore[attr-defined]  # (the method lives no longer than its program)
    return run, json.loads(program.load_method("kdse").execute([])[0])


FORMAT = ExecutorchFile()
