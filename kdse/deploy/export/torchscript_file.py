"""A student as a TorchScript file: `torch.jit.load` runs it in Python or C++, without kdse."""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdse.deploy.export.capture import quiet, with_plain_names
from kdse.deploy.export.format import ExportFormat, Options
from kdse.deploy.export.graphs import Graph
from kdse.internals.torch import without_records
from kdse.machine.files import write_bytes

#: The entry of a file that holds the metadata, also in pt2 files.
ENTRY = "kdse.json"


class TorchScriptFile(ExportFormat):
    """A traced graph; the metadata is the entry "kdse.json" (``torch.jit.load(path, _extra_files={"kdse.json": ""})``).

    A step file takes one hop and the states, one tensor each in the order of the metadata, and returns the enhanced hop
    and the next states; the batch is free. A file of whole signals takes ``[batch, samples]`` of any batch, and of
    ``minimum_samples`` of the metadata or more; `kdse.models.TorchScript` serves it.
    """

    name = "torchscript"
    suffixes = (".pt", ".ts")

    def write(self, graph: Graph, path: Path, options: Options, about: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        with torch.no_grad(), warnings.catch_warnings():
            # that torch.export is newer, and lengths in the trace: they are followed (the tests show it)
            warnings.simplefilter("ignore")
            ready = with_plain_names(copy.deepcopy(graph).eval())
            program = torch.jit.trace(ready, graph.example(2), check_trace=False)
            torch.jit.save(program, buffer, _extra_files={ENTRY: json.dumps(about, sort_keys=True, allow_nan=False)})
        # tables of source lines hold paths of the machine that wrote them
        made_anew = ("version", "byteorder", ".data/serialization_id")
        content = without_records(buffer.getvalue(), lambda name: name.endswith(".debug_pkl") or name in made_anew)
        write_bytes(path, content)

    def program(self, path: Path) -> Callable[..., Any]:
        with quiet():
            loaded: Callable[..., Any] = torch.jit.load(str(path))
        return loaded


FORMAT = TorchScriptFile()
