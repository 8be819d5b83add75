"""An ONNX file can teach, whatever axes it was exported with; what cannot be served is refused by name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from kdse.distiller import Distiller
from kdse.models.aligned import Aligned
from kdse.models.checkpoint import describe, fingerprint, load_model
from kdse.models.onnx import Onnx
from kdse.objectives.output import OutputDistillation
from tests.toys import ToyData, make_student, make_trainer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
TAPS = [0.5, -0.25, 0.125]


def graph(folder, shape, taps=TAPS, dtype="FLOAT", more_inputs=(), name="net.onnx", answer_shape=None) -> str:
    """A graph that filters its input (a causal FIR) and returns it in the same layout, and a scalar beside it."""
    from onnx import TensorProto, helper, numpy_helper

    kind = getattr(TensorProto, dtype)
    numpy_kind = {"FLOAT": np.float32, "DOUBLE": np.float64, "FLOAT16": np.float16}[dtype]
    weights = np.asarray(taps[::-1], numpy_kind)[None, None]
    inputs = [helper.make_tensor_value_info("noisy", kind, shape)]
    inputs += [helper.make_tensor_value_info(n, kind, [1]) for n in more_inputs]
    channels = [0, 1, -1] if len(shape) == 2 else [1, 1, -1]  # 0 copies the batch axis
    constants = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.asarray(channels if len(shape) < 3 else [0, 0, -1], np.int64), "wide"),
        numpy_helper.from_array(np.asarray({1: [-1], 2: [0, -1], 3: [0, 1, -1]}[len(shape)], np.int64), "narrow"),
    ]
    filtering = helper.make_node("Conv", ["x", "w"], ["y"], pads=[len(taps) - 1, 0])
    if len(taps) == 1:  # onnxruntime has no double convolution
        filtering = helper.make_node("Mul", ["x", "w"], ["y"])
    nodes = [
        helper.make_node("Reshape", ["noisy", "wide"], ["x"]),
        filtering,
        helper.make_node("Reshape", ["y", "narrow"], ["clean"]),
        helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0),
    ]
    outputs = [helper.make_tensor_value_info(n, kind, s) for n, s in (("clean", answer_shape or shape), ("sum", []))]
    made = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / name))
    return str(folder / name)


def filtered(noisy: torch.Tensor) -> torch.Tensor:
    """The same filter, from the definition."""
    rows = noisy.double().numpy()
    return torch.from_numpy(np.stack([np.convolve(row, TAPS)[: len(row)] for row in rows])).float()


@pytest.mark.parametrize("shape", [["b", "n"], ["b", 1, "n"], [1, "n"], [1, 1, "n"], ["n"], [4, "n"], [4, 1, "n"]])
@pytest.mark.parametrize("items", [1, 3, 9])
def test_every_layout_and_batch_gives_the_filter(tmp_path, shape, items):
    model = Onnx(graph(tmp_path, shape))
    for samples in (1, 2, 501):
        noisy = torch.randn(items, samples)
        torch.testing.assert_close(model(noisy).waveform, filtered(noisy))


@pytest.mark.parametrize(("dtype", "tolerance"), [("DOUBLE", 1e-6), ("FLOAT16", 2e-3)])
def test_graphs_of_other_precision_are_served_and_answer_in_float32(tmp_path, dtype, tolerance):
    noisy = torch.randn(2, 300)
    wave = Onnx(graph(tmp_path, ["b", "n"], taps=[0.3], dtype=dtype))(noisy).waveform
    assert wave.dtype == torch.float32
    torch.testing.assert_close(wave, 0.3 * noisy, atol=tolerance, rtol=0)


def test_a_fixed_length_serves_shorter_audio_and_refuses_longer(tmp_path):
    model = Onnx(graph(tmp_path, [1, 1, 800]))
    for samples in (1, 799, 800):
        noisy = torch.randn(2, samples)
        torch.testing.assert_close(model(noisy).waveform, filtered(noisy))
    with pytest.raises(ValueError, match="800 samples and got 801"):
        model(torch.randn(2, 801))


def test_no_gradient_comes_out(tmp_path):
    noisy = torch.randn(1, 100, requires_grad=True)
    assert not Onnx(graph(tmp_path, ["b", "n"]))(noisy).waveform.requires_grad


def test_what_cannot_be_served_is_named(tmp_path):
    with pytest.raises(ValueError, match="missing.onnx: no such file"):
        Onnx(str(tmp_path / "missing.onnx"))
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match="text.onnx cannot be run"):
        Onnx(str(tmp_path / "text.onnx"))
    with pytest.raises(ValueError, match=r"2 inputs \(noisy .*state \[1\]\)"):
        Onnx(graph(tmp_path, ["b", "n"], more_inputs=["state"]))
    with pytest.raises(ValueError, match=r"must be audio \[B, N\]"):
        Onnx(graph(tmp_path, ["b", 2, "n"]))
    with pytest.raises(ValueError, match="output_name='wave'.*clean, sum"):
        Onnx(graph(tmp_path, ["b", "n"]), output_name="wave")
    with pytest.raises(ValueError, match="one wave each.*clean, sum"):
        Onnx(graph(tmp_path, ["b", "n"]), output_name="sum")(torch.randn(2, 50))


def test_without_onnxruntime_the_package_is_named(tmp_path, monkeypatch):
    path = graph(tmp_path, ["b", "n"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="pip install onnxruntime"):
        Onnx(path)


def test_files_of_other_weights_have_other_fingerprints(tmp_path):
    one, other = graph(tmp_path, ["b", "n"]), graph(tmp_path, ["b", "n"], taps=[1.0, 2.0], name="other.onnx")
    assert fingerprint(Onnx(one)) == fingerprint(Onnx(one)) != fingerprint(Onnx(other))


def test_a_checkpoint_that_names_an_onnx_file_needs_trust(tmp_path):
    model = Onnx(graph(tmp_path, ["b", "n"]))
    content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}
    torch.save(content, tmp_path / "onnx.ckpt")
    with pytest.raises(ValueError, match="--trust-code"):
        load_model(tmp_path / "onnx.ckpt")
    noisy = torch.randn(1, 60)
    torch.testing.assert_close(load_model(tmp_path / "onnx.ckpt", trust_code=True)(noisy).waveform, filtered(noisy))


def test_an_onnx_teacher_trains_a_student(tmp_path):
    student = make_student()
    before = [p.clone() for p in student.parameters()]
    distiller = Distiller(teacher=Onnx(graph(tmp_path, [1, 1, "n"])), student=student, metrics=["si_sdr"])
    make_trainer(tmp_path, [OutputDistillation()], max_steps=2).fit(distiller, ToyData())
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


@pytest.mark.parametrize("samples", ["n", 9000])
def test_an_onnx_teacher_of_another_rate_trains_a_student_through_alignment(tmp_path, samples):
    late = [0.0] * 24 + [2.0]
    teacher = Aligned(Onnx(graph(tmp_path, [1, samples], taps=late), sample_rate_hz=32000), flush=samples == "n")
    found = teacher.measure()
    assert found.delay_samples == 24 and found.gain == pytest.approx(2, rel=1e-3)
    distiller = Distiller(teacher=teacher, student=make_student(), metrics=["si_sdr"])
    trainer = make_trainer(tmp_path, [OutputDistillation()], max_steps=2)
    trainer.fit(distiller, ToyData())
    spectrum = torch.fft.rfft(torch.randn(2, 4096))
    spectrum[:, -300:] = 0  # what resampling does to the last of the band is not the point here
    noisy = torch.fft.irfft(spectrum, 4096)
    assert (teacher(noisy).waveform - noisy)[:, 50:-50].abs().max() < 0.02
