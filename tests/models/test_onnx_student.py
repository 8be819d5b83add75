"""A student from an ONNX file is a model as any other: it streams, equals PyTorch, and refuses what is not one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from kdse.deploy.export import onnx_graph
from kdse.deploy.files import enhance_file
from kdse.evaluation.systems import model_system
from kdse.models import Onnx, OnnxStudent
from kdse.models.checkpoint import fingerprint, load_model
from kdse.models.streaming import Streamer, can_stream
from tests.data.small_corpus import put
from tests.deploy.export.students import step_bytes, step_file, student

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CASES = [
    ("cruse-62k", "inside", 20),
    ("tiny", "outside", 18),
    *(
        pytest.param(*case, marks=pytest.mark.slow)  # exports of some seconds each
        for case in (("cruse-30k", "outside", 18), ("unet", "inside", 18), ("dccrn", "outside", 18))
    ),
]


def noise(batch: int, samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("name", "stft", "opset"), CASES)
def test_any_chunking_through_the_file_equals_the_torch_model_over_the_whole_signal(tmp_path, name, stft, opset):
    model, loaded = student(name), load_model(step_file(tmp_path, name, stft, opset))
    assert isinstance(loaded, OnnxStudent) and can_stream(loaded)
    assert (loaded.latency_samples, loaded.hop_samples) == (model.latency_samples, model.hop_samples)
    noisy = noise(1, 16000 + 77)
    wanted = model(noisy).waveform.detach()
    cuts = torch.randint(0, 700, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    streamer, pieces, at = Streamer(loaded), [], 0
    for cut in [*cuts, noisy.shape[1]]:
        pieces.append(streamer.push(noisy[:, at : at + cut]))
        at += cut
    torch.testing.assert_close(torch.cat([*pieces, streamer.flush()], dim=1), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(loaded(noisy).waveform, wanted, atol=1e-5, rtol=0)


def test_the_rows_of_a_batch_are_streams_of_their_own(tmp_path):
    loaded, noisy = load_model(step_file(tmp_path, "tiny")), noise(3, 4000)
    rows = torch.cat([loaded(row[None]).waveform for row in noisy])
    torch.testing.assert_close(loaded(noisy).waveform, rows, atol=0, rtol=0)
    torch.testing.assert_close(rows, student("tiny")(noisy).waveform.detach(), atol=1e-5, rtol=0)


def test_a_stereo_file_is_enhanced_hop_by_hop(tmp_path):
    import soundfile

    loaded, noisy = load_model(step_file(tmp_path, "tiny")), noise(2, 24000).clamp(-1, 1)
    put(tmp_path / "in.wav", noisy.T.numpy(), subtype="FLOAT")
    done = enhance_file(loaded, tmp_path / "in.wav", tmp_path / "out.wav", chunk_seconds=0.5)
    assert (done.method, done.channels) == ("streamed", 2)
    found = torch.from_numpy(soundfile.read(tmp_path / "out.wav", dtype="float32")[0].T.copy())
    torch.testing.assert_close(found, student("tiny")(noisy).waveform.detach(), atol=1e-5, rtol=0)


def test_evaluation_knows_the_file_by_its_bytes_and_what_it_costs(tmp_path):
    path = step_file(tmp_path, "cruse-62k", "inside", 20)
    system = model_system(path, 16000, "cpu", False)
    assert system.about["model"] == "OnnxStudent" and system.about["parameters"] == 62313
    cost = system.about["cost"]
    assert (cost["model_bytes"], cost["latency_ms"], cost["parameters"]) == (path.stat().st_size, 32, 62313)
    assert cost["streaming_real_time_factor"] > 0
    again = model_system(path, 16000, "cpu", False, cost=False)
    proto = onnx.load_model_from_string(path.read_bytes())
    proto.producer_name = "another"
    path.write_bytes(proto.SerializeToString())
    other = model_system(path, 16000, "cpu", False, cost=False)
    assert system.identity == again.identity != other.identity
    assert fingerprint(load_model(path)) == other.about["weights_sha256"]
    with pytest.raises(ValueError, match="works at 16000 Hz"):
        model_system(path, 8000, "cpu", False)


def changed(folder, **entries):
    """The tiny student's step file with other metadata; None takes the whole entry out."""
    content = step_bytes("tiny")
    proto = onnx.load_model_from_string(content)
    about = json.loads(proto.metadata_props[0].value) | entries
    path = folder / "changed.onnx"
    path.write_bytes(onnx_graph.with_metadata(content, about))
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format_version": 2}, "metadata has format 2, this kdse reads 1"),
        ({"hop_samples": 0}, r"metadata is damaged \(hop_samples\)"),
        ({"states": [{"name": "input"}]}, r"metadata is damaged \(states\)"),
        ({"states": []}, "disagree on the input 'state.decoder0.depthwise.past'"),
        ({"stft": "outside", "front_end": None}, r"metadata is damaged \(front_end\)"),
        ({"stft": "outside", "front_end": {"n_fft": 4}}, "metadata is damaged .front_end"),
        ({"stft": "outside", "front_end": {"n_fft": 10**12}}, r"front_end\.n_fft: 1000000000000 is beyond"),
        ({"hop_samples": 10**12}, r"hop_samples: 1000000000000 is beyond"),
        ({"states": [{"name": "input", "shape": [1, 10**12], "dtype": "float32"}]}, "ask for more than 64 MiB"),
    ],
)
def test_metadata_that_is_wrong_is_one_line_that_names_the_file(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message) as error:
        load_model(changed(tmp_path, **entries))
    assert "changed.onnx" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("entry", [{"dtype": "float64"}, {"shape": [1, 257]}])
def test_states_of_another_type_or_shape_than_the_graphs_are_refused_before_they_are_made(tmp_path, entry):
    states = json.loads(onnx.load_model_from_string(step_bytes("tiny")).metadata_props[0].value)["states"]
    path = changed(tmp_path, states=[states[0] | entry, *states[1:]])
    with pytest.raises(ValueError, match=rf"changed.onnx: .*disagree on the input 'state.{states[0]['name']}'"):
        load_model(path)


@pytest.mark.parametrize("terabytes", [0.01, 4.0])
@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "initializer", "sparse"])
def test_a_graph_that_asks_for_gigabytes_is_one_line_and_does_not_get_them(tmp_path, capfd, operator, terabytes):
    from onnx import TensorProto, helper, numpy_helper

    count = int(terabytes * 1e12 / 4 // 256 * 256)
    size, one = numpy_helper.from_array(np.array([count // 256, 256]), "size"), np.ones(1, np.float32)
    large = numpy_helper.from_array(one, "large")
    large.dims[0] = count
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(one, "large"), numpy_helper.from_array(np.array([0])), [count]
    )
    nodes = {
        "ConstantOfShape": [helper.make_node("ConstantOfShape", ["size"], ["large"])],
        "Expand": [helper.make_node("Expand", ["audio", "size"], ["large"])],
    }.get(operator, [])
    nodes += [
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["audio", "sum"], ["enhanced"]),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 256]) for n in ("audio", "enhanced")]
    kept = [size, *([large] if operator == "initializer" else [])]
    graph = helper.make_graph(
        nodes, "g", ports[:1], ports[1:], kept, sparse_initializer=[sparse] * (operator == "sparse")
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(made, tmp_path / "large.onnx")
    with pytest.raises(ValueError, match="asks for more than 4 GiB of memory|cannot be run by onnxruntime") as error:
        load_model(tmp_path / "large.onnx")(torch.ones(1, 256))
    assert "\n" not in str(error.value) and not capfd.readouterr().err
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    assert peak < 8e6  # kB; the smaller graph asks for 10 GB


def test_metadata_that_is_no_json_is_refused(tmp_path):
    proto = onnx.load_model_from_string(step_bytes("tiny"))
    proto.metadata_props[0].value = "{"
    (tmp_path / "broken.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"broken.onnx: its kdse metadata is damaged \(not a JSON object\)"):
        load_model(tmp_path / "broken.onnx")


def test_files_of_others_are_no_students(tmp_path):
    proto = onnx.load_model_from_string(step_bytes("tiny"))
    del proto.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="foreign.onnx: was not written by kdse export"):
        OnnxStudent(str(path))
    with pytest.raises(ValueError, match="foreign.onnx: its interface is not one that kdse knows"):
        load_model(path)
    with pytest.raises(ValueError, match="none.onnx: no such file"):
        load_model(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ValueError, match="text.onnx cannot be run by onnxruntime"):
        load_model(tmp_path / "text.onnx")


def test_a_step_graph_without_metadata_runs_as_a_declared_one_whose_delay_is_left_in(tmp_path):
    from kdse.models import OnnxStream

    proto = onnx.load_model_from_string(step_bytes("tiny"))
    (tmp_path / "student.onnx").write_bytes(proto.SerializeToString())
    del proto.metadata_props[:]
    (tmp_path / "foreign.onnx").write_bytes(proto.SerializeToString())
    student = OnnxStudent(str(tmp_path / "student.onnx"))
    foreign = OnnxStream(str(tmp_path / "foreign.onnx"), "waveform", hop=student.hop_samples)
    noisy, late = 0.1 * torch.randn(2, 3000), student.latency_samples - student.hop_samples
    torch.testing.assert_close(foreign(noisy).waveform[:, late:], student(noisy).waveform[:, :-late])


def test_a_graph_of_whole_signals_keeps_its_sample_rate(tmp_path):
    from tests.models.test_onnx import graph

    path = tmp_path / graph(tmp_path, ["b", "n"]).rsplit("/", 1)[-1]
    assert isinstance(load_model(path), Onnx)
    about = json.loads(onnx.load_model_from_string(step_bytes("tiny")).metadata_props[0].value)
    about |= {"kind": "whole", "states": [], "sample_rate_hz": 8000, "latency_samples": None, "lookahead_samples": None}
    path.write_bytes(onnx_graph.with_metadata(path.read_bytes(), about))
    loaded = load_model(path)
    assert isinstance(loaded, Onnx) and loaded.sample_rate_hz == 8000 and not can_stream(loaded)
    with pytest.raises(ValueError, match="holds a graph for whole signals"):
        OnnxStudent(str(path))
