"""Small students whose exports the tests share: an export takes seconds, so each is made once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from kdse.deploy.export import onnx_graph
from kdse.deploy.export.graphs import graph_of
from kdse.deploy.export.metadata import describe_export
from kdse.models import Cruse, Dccrn, UNet
from kdse.models.base import SpeechModel
from kdse.models.checkpoint import load_model
from kdse.pretrained import find


@cache
def student(name: str) -> SpeechModel:
    """A model in eval mode with weights (and batch statistics) that are not the initial ones."""
    if name.startswith("cruse-"):
        return load_model(find(name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model: SpeechModel = {
            "cruse": lambda: Cruse([2, 4, 4, 4]),
            "tiny": lambda: UNet([2, 4]),
            "unet": lambda: UNet([4, 6, 8], gru_groups=2, norm="cumulative"),
            "dccrn": lambda: Dccrn([4, 4, 6], lstm_units=8, look_ahead=False),
        }[name]()
        for _ in range(2):
            model(0.1 * torch.randn(2, 8000))
    return model.eval()


@cache
def step_bytes(name: str, stft: str = "inside", opset: int = 18) -> bytes:
    """An ONNX step file with its metadata."""
    model = student(name)
    graph = graph_of(model, stft=stft)
    return onnx_graph.with_metadata(onnx_graph.build(graph, opset), describe_export(graph, None))


def step_file(folder: Path, name: str, stft: str = "inside", opset: int = 18) -> Path:
    path = folder / f"{name}-{stft}-{opset}.onnx"
    path.write_bytes(step_bytes(name, stft, opset))
    return path
