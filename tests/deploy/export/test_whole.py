"""ONNX files of whole signals give the model's results for any length and batch, silence included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdse.deploy.export import onnx_graph
from kdse.deploy.export.capture import recurrent_layers_kept, with_plain_names
from kdse.deploy.export.graphs import WholeSignal
from kdse.models import Cruse, Dccrn, Manner, Onnx, SpeechModel, Uformer, UNet
from kdse.models.probe_speech import speech_like, with_noise
from tests.deploy.export.tiny import MODELS, built

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


def write(model: SpeechModel, path: Path) -> Path:
    path.write_bytes(onnx_graph.build(WholeSignal(model), 20))
    return path


@torch.no_grad()
def largest_difference(model: SpeechModel, path: Path, seconds: tuple[float, ...]) -> float:
    """Over noisy speech of these lengths and a batch of three; the outputs must not be empty."""
    session = onnxruntime.InferenceSession(path)
    speech = with_noise(speech_like(model.sample_rate_hz, 4.0))
    least, worst = model.shortest_samples, 0.0
    waves = [speech[:, : max(least, round(s * model.sample_rate_hz) + 1)] for s in seconds]
    for wave in [*waves, speech[:, :3999].reshape(3, -1)]:
        wanted = model(wave).waveform
        (found,) = session.run(None, {"audio": wave.numpy()})
        assert found.shape == wave.shape and wanted.abs().max() > 1e-5
        worst = max(worst, float(np.abs(found - wanted.numpy()).max()))
    return worst


def family(name: str):
    return name if name == "dccrn" else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.integration
@pytest.mark.parametrize("name", map(family, MODELS))
def test_a_whole_file_gives_the_models_result_for_any_length_and_batch(name, tmp_path):
    model = built(name)
    path = write(model, tmp_path / "whole.onnx")
    assert largest_difference(model, path, (0.0, 0.3, 2.0, 4.0)) < 1e-5
    silence = torch.zeros(1, 2000)  # small constants that guard roots and quotients must have come along
    with torch.no_grad():
        wanted = model(silence).waveform
    torch.testing.assert_close(Onnx(str(path))(silence).waveform, wanted, atol=1e-6, rtol=0)


PUBLISHED = {
    "cruse": (Cruse, {}),
    "unet": (UNet, {}),
    "dccrn": (Dccrn, {}),
    "dccrn, complex and causal": (
        Dccrn,
        {"channels": [32, 64, 128, 256, 256, 256], "complex_lstm": True, "look_ahead": False},
    ),
    "uformer": (Uformer, {}),
    "manner": (Manner, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_whole_file_of_a_published_size_gives_the_models_result(name, tmp_path):
    torch.manual_seed(0)
    cls, settings = PUBLISHED[name]
    model = cls(**settings)
    with torch.no_grad():
        model(0.1 * torch.randn(1, 16_000))
    model.eval()
    difference = largest_difference(model, write(model, tmp_path / "whole.onnx"), (2.0, 4.0))
    print(f"{name}: largest difference {difference:.2e}")
    assert difference < 1e-4


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_recurrent_layers_are_themselves_again_after_an_export():
    x = torch.randn(1, 5, 3)
    gru, lstm = torch.nn.GRU(3, 4, batch_first=True), torch.nn.LSTM(3, 4, 2, batch_first=True)
    aten = torch.ops.aten
    before = [dict(op.py_kernels) for op in (aten.gru.input, aten.lstm.input)]
    with torch.no_grad():
        expected = gru(x)[0], lstm(x)[0]
        with recurrent_layers_kept():
            program = torch.export.export(gru, (x,), dynamic_shapes=({1: torch.export.Dim("frames")},))
        assert torch.equal(program.module()(x)[0], expected[0])
        assert torch.equal(gru(x)[0], expected[0]) and torch.equal(lstm(x)[0], expected[1])
    assert [dict(op.py_kernels) for op in (aten.gru.input, aten.lstm.input)] == before


def test_parts_named_by_words_of_python_are_renamed_and_still_found():
    parts = torch.nn.ModuleDict({"global": torch.nn.Linear(2, 2), "local": torch.nn.Linear(2, 2)})
    inner = parts["global"]
    holder = with_plain_names(torch.nn.ModuleDict({"views": parts}))
    assert {name.split(".")[1] for name in holder.state_dict()} == {"global_", "local"}
    assert holder["views"]["global"] is inner
