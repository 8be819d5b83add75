"""An exported step file computes what PyTorch computes, holds the student alone, and says what it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kdse.deploy.export import onnx_graph
from kdse.deploy.export.graphs import graph_of
from kdse.deploy.export.metadata import describe_export
from kdse.models import Uformer
from kdse.models.stft import Stft
from tests.deploy.export.students import step_bytes, step_file, student

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CASES = [
    ("cruse-62k", "inside", 20),
    ("tiny", "inside", 18),
    ("tiny", "outside", 23),
    *(
        pytest.param(*case, marks=pytest.mark.slow)  # exports of some seconds each
        for case in (
            ("cruse-30k", "outside", 18),
            ("unet", "inside", 18),
            ("unet", "outside", 23),
            ("dccrn", "inside", 20),
            ("dccrn", "outside", 18),
        )
    ),
]


def speech(seconds: float, rate: int = 16000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    time = torch.arange(round(seconds * rate)) / rate
    voice = sum(torch.sin(2 * torch.pi * 140 * k * time) / k for k in range(1, 12))
    return (0.1 * voice * (torch.sin(6 * time) > 0) + 0.03 * torch.randn(len(time), generator=generator))[None]


@pytest.mark.parametrize(("name", "stft", "opset"), CASES)
def test_a_step_of_the_file_is_a_step_of_the_model(tmp_path, name, stft, opset):
    """Three seconds by onnxruntime alone, from zeros, with the names of the contract; every state agrees too."""
    model, session = student(name), onnxruntime.InferenceSession(step_file(tmp_path, name, stft, opset))
    state = model.initial_state(1)
    names = [k for k in state if stft == "inside" or k not in ("input", "output")]
    first, answer = ("audio", "enhanced") if stft == "inside" else ("spectrum", "enhanced_spectrum")
    assert [i.name for i in session.get_inputs()] == [first, *(f"state.{n}" for n in names)]
    assert [o.name for o in session.get_outputs()] == [answer, *(f"next.{n}" for n in names)]
    fed = {i.name: np.zeros(i.shape, np.float64 if "double" in i.type else np.float32) for i in session.get_inputs()}
    front: Stft = model.stft
    with torch.no_grad():
        for hop in speech(3.0).split(model.hop_samples, dim=1)[:-1]:
            if stft == "inside":
                wanted, state = model.step(hop, state)
                fed[first] = hop.numpy()
            else:
                frame = torch.cat([state["input"], hop], dim=1)
                spectrum = front.analyse(frame)
                fed[first] = np.stack([spectrum.real.numpy(), spectrum.imag.numpy()], axis=-1)
                enhanced, new = model.step_spectrum(spectrum[:, :, None], state)
                wanted = torch.view_as_real(enhanced[:, :, 0])
                state = {**state, **new, "input": frame[:, model.hop_samples :]}
            found, *after = session.run(None, fed)
            largest = float(wanted.abs().max().clamp_min(1.0))
            np.testing.assert_allclose(found, wanted.numpy(), atol=5e-6 * largest, rtol=0)
            fed |= {f"state.{n}": value for n, value in zip(names, after, strict=True)}
    for n in names:
        scale = float(state[n].abs().max().clamp_min(1.0))
        np.testing.assert_allclose(fed[f"state.{n}"], state[n].numpy(), atol=1e-5 * scale, rtol=0)


def test_the_file_holds_the_weights_of_the_student_and_nothing_of_that_size_besides():
    """Every parameter's values are in it; what remains are the two mel matrices and small constants."""
    model = student("cruse-62k")
    constants = [
        onnx.numpy_helper.to_array(t)
        for t in onnx.load_model_from_string(step_bytes("cruse-62k", "inside", 20)).graph.initializer
    ]
    inside = np.sort(np.concatenate([c.ravel() for c in constants if c.dtype == np.float32]))
    for name, parameter in model.named_parameters():
        wanted = parameter.detach().numpy().ravel()
        places = np.searchsorted(inside, wanted).clip(max=len(inside) - 1)
        assert (inside[places] == wanted).mean() > 0.6, name  # (a GRU's two biases of a gate stay apart, sums do not)
    rest = sum(c.nbytes for c in constants) - 4 * sum(p.numel() for p in model.parameters())
    assert rest < 4 * (model.mel.numel() + model.expand.numel()) + 3000


def test_no_path_and_no_source_line_is_in_the_file():
    content = step_bytes("cruse-62k", "inside", 20)
    proto = onnx.load_model_from_string(content)
    for trace in (b'File "', b"site-packages", str(Path(__file__).parents[3]).encode(), b"/home", b".py"):
        assert trace not in content
    assert not proto.doc_string and not any(n.doc_string or n.metadata_props for n in proto.graph.node)
    assert [entry.key for entry in proto.metadata_props] == ["kdse"]
    assert len(content) < onnx_graph.initializer_bytes(content) + 45_000


def test_the_operator_set_is_the_one_asked_for():
    for opset, name, stft in ((18, "tiny", "inside"), (23, "tiny", "outside")):
        proto = onnx.load_model_from_string(step_bytes(name, stft, opset))
        assert [(e.domain, e.version) for e in proto.opset_import] == [("", opset)]
        onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("opset", [9, 17, 27])
def test_an_operator_set_that_cannot_be_written_is_refused_with_the_range(opset):
    graph = graph_of(student("tiny"))
    with pytest.raises(ValueError, match=rf"--opset {opset}: .*18 to 26"):
        onnx_graph.build(graph, opset)


def test_the_exporter_says_nothing_and_leaves_the_model_as_it_was(capfd, recwarn):
    model = student("tiny")
    graph = graph_of(model, stft="outside")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    onnx_graph.build(graph)
    out = capfd.readouterr()
    assert (out.out, out.err, list(recwarn)) == ("", "", [])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model(speech(0.5)).spectrum.is_complex()


def test_the_metadata_says_what_is_inside(tmp_path):
    session = onnxruntime.InferenceSession(step_file(tmp_path, "tiny", "outside", 23))
    about = json.loads(session.get_modelmeta().custom_metadata_map["kdse"])
    assert (about["kind"], about["stft"], about["causal"], about["sample_rate_hz"]) == ("step", "outside", True, 16000)
    assert about["model"]["class_path"] == "kdse.models.UNet"
    assert about["model"]["init_args"]["channels"] == [2, 4]
    shapes = {i.name: i.shape for i in session.get_inputs() if "." in i.name}
    assert {f"state.{s['name']}": s["shape"] for s in about["states"]} == shapes
    assert about["scores"] is None and about["config_sha256"] is None and about["quantized"] is None


def test_the_metadata_lets_a_host_build_the_front_end():
    model = student("dccrn")
    about = describe_export(graph_of(model, stft="outside"), None)
    assert (about["hop_samples"], about["latency_samples"], about["lookahead_samples"]) == (100, 400, 398)
    assert about["front_end"] == {
        "n_fft": 512, "hop_samples": 100, "window_samples": 400, "window_offset": 0, "window": "hann", "limit": 1.0
    }  # fmt: skip
    assert about["parameters"] == sum(p.numel() for p in model.parameters())
    assert not {s["name"] for s in about["states"]} & {"input", "output"}


def test_what_cannot_stream_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="--streaming: Uformer cannot run hop by hop: .*not causal"):
        graph_of(Uformer([2, 2], dilated_layers=1))
