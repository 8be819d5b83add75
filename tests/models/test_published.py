"""Published weights give the published networks: sizes, bands, and what their authors' graphs give frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdse.audio.files import read
from kdse.models import Gtcrn, SpeechModel, UlUnas
from kdse.models.checkpoint import load_model, load_weights, read_checkpoint
from tests.data.small_corpus import real_corpus
from tests.public_teachers import folder

FILES = {
    "gtcrn": (Gtcrn, "gtcrn_simple.onnx", torch.hann_window(512).sqrt()),
    "ul-unas": (UlUnas, "ulunas_stream_simple.onnx", torch.hann_window(512)),
}


def published(name: str) -> Path:
    """The folder with the published files of a network. Skips where it is absent."""
    place = folder() / name
    if not place.is_dir():
        pytest.skip(f"no published weights at {place}; set KDSE_TEACHERS to the folder of all of them")
    return place


def weights_file(name: str) -> Path:
    return published(name) / "model_trained_on_dns3.tar"


# --- the authors' graphs ---


def run_graph(graph: bytes, noisy: Tensor, window: Tensor) -> Tensor:
    """Audio ``[N]``, whole hops, through a streaming graph, frame by frame, between PyTorch's own STFT and inverse."""
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(graph)
    states = {entry.name: np.zeros(entry.shape, np.float32) for entry in session.get_inputs() if entry.name != "mix"}
    settings = {"n_fft": 512, "hop_length": 256, "window": window}
    spectrum = torch.stft(noisy, **settings, pad_mode="constant", return_complex=True)
    frames = []
    for frame in torch.view_as_real(spectrum).split(1, dim=1):
        enhanced, *new = session.run(None, {"mix": frame[None].numpy(), **states})
        states = dict(zip(states, new, strict=True))
        frames.append(torch.from_numpy(enhanced[0]))
    return torch.istft(torch.view_as_complex(torch.cat(frames, dim=1)), **settings, length=len(noisy))


def with_weights(path: Path, state: dict[str, Tensor]) -> bytes:
    """A published graph of GTCRN with other weights in it.

    Its parts are in the order of the state dict; the batch norms of plain convolutions are folded into them.
    """
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def put(name: str, value: Tensor) -> None:
        shaped = value.numpy().reshape(tuple(constants[name].dims))
        constants[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(shaped), name))

    def of(ending: str) -> list[Tensor]:
        return [value for name, value in state.items() if name.endswith(ending)]

    for name in constants:
        if name.replace(".ConvTranspose2d", "") in state:
            put(name, state[name.replace(".ConvTranspose2d", "")])
    kinds = {kind: [node.input for node in model.graph.node if node.op_type == kind] for kind in ("PRelu", "Conv")}
    for inputs, slope in zip(kinds["PRelu"], of("act.weight"), strict=True):
        put(inputs[1], slope)
    matrices = [n.input[1] for n in model.graph.node if n.op_type == "MatMul" and "bias" not in n.input[1]]
    for name, weight in zip(matrices[1:-1], [w for w in of("fc.weight") if w.shape[0] <= 16], strict=True):
        put(name, weight.t())  # (the first and last are the fixed bands')
    encoder = [name.removesuffix(".weight") for name, w in state.items() if "en_convs" in name and w.ndim == 4]
    for inputs, name in zip(kinds["Conv"], encoder, strict=True):
        above, _, own = name.rpartition(".")
        norm = f"{above}.{own.replace('conv', 'bn')}"
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
        put(inputs[1], state[f"{name}.weight"] * scale[:, None, None, None])
        put(inputs[2], (state[f"{name}.bias"] - state[f"{norm}.running_mean"]) * scale + state[f"{norm}.bias"])
    nodes = [node for node in model.graph.node if node.op_type == "GRU"]
    grus = [name.removesuffix("weight_ih_l0") for name in state if name.endswith("weight_ih_l0")]
    for node, name in zip(nodes, grus, strict=True):
        ways = ["", "_reverse"] if f"{name}weight_ih_l0_reverse" in state else [""]
        for place, kind in ((1, "weight_ih"), (2, "weight_hh")):
            put(node.input[place], torch.stack([gates(state[f"{name}{kind}_l0{way}"]) for way in ways]))
        biases = [gates(state[f"{name}{kind}_l0{way}"]) for way in ways for kind in ("bias_ih", "bias_hh")]
        put(node.input[3], torch.cat(biases))
    return bytes(model.SerializeToString())


def gates(weight: Tensor) -> Tensor:
    """PyTorch's order of a GRU's gates (reset, update, new) in that of ONNX (update, reset, new)."""
    reset, update, new = weight.chunk(3)
    return torch.cat([update, reset, new])


@pytest.mark.parametrize("name", FILES)
def test_published_weights_give_on_speech_what_the_published_graph_gives(name):
    family, graph, window = FILES[name]
    content = (published(name) / graph).read_bytes()
    if name == "gtcrn":  # (its graph holds weights of an earlier training than the file beside it)
        state = torch.load(weights_file(name), map_location="cpu", weights_only=True)["model"]
        content = with_weights(published(name) / graph, state)
    noisy = read(sorted((real_corpus() / "pairs" / "vbdmd_test" / "noisy").iterdir())[0], 16000)[: 100 * 256]
    model = load_model(weights_file(name))
    assert type(model) is family
    with torch.no_grad():
        found = model(noisy[None]).waveform[0]
    assert found.std() > 0.01
    torch.testing.assert_close(found, run_graph(content, noisy, window), atol=1e-4, rtol=0)


# --- files ---


@pytest.mark.parametrize("name", FILES)
def test_published_weights_are_put_into_a_model_like_those_of_a_checkpoint(name):
    family, *_ = FILES[name]
    content = read_checkpoint(weights_file(name))
    assert content["kdse"]["model"]["class_path"] == f"kdse.models.{family.__name__}"
    model: SpeechModel = family()
    load_weights(model, content["state_dict"], "the file")
    loaded = load_model(weights_file(name)).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="the file: is of another architecture than Gtcrn"):
        load_weights(Gtcrn(channels=8), content["state_dict"], "the file")


def test_weights_with_other_band_filters_or_of_another_size_are_refused(tmp_path):
    content = torch.load(weights_file("gtcrn"), map_location="cpu", weights_only=True)
    content["model"]["encoder.en_convs.0.conv.weight"] = torch.zeros(8, 9, 1, 5)
    torch.save(content, tmp_path / "size.tar")
    with pytest.raises(ValueError, match=r"size\.tar: .* other shapes for \['encoder\.0\.conv\.conv\.weight'\]"):
        load_model(tmp_path / "size.tar")
    content["model"]["erb.erb_fc.weight"] = content["model"]["erb.erb_fc.weight"].roll(1, 1)
    torch.save(content, tmp_path / "filters.tar")
    with pytest.raises(ValueError, match=r"filters\.tar: .*neither a training checkpoint nor published weights"):
        load_model(tmp_path / "filters.tar")
