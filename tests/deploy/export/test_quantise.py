"""8-bit files: weights within half a step, states and metadata intact, and little lost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdse.deploy.export.onnx_graph import build, initializer_bytes, with_metadata
from kdse.deploy.export.quantise import first_weighted, quantise_file, store_in_8_bits, weighted_nodes
from tests.data.small_corpus import hiss, make_corpus, put, real_corpus, tone_and_pauses

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def noisy(seconds: float, seed: int = 0) -> np.ndarray:
    return (tone_and_pauses(seconds, seed=seed) + 0.3 * hiss(seconds, seed=seed)).astype(np.float32)


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shipped student, STFT outside, GRUs as products."""
    from kdse.deploy.export.graphs import graph_of
    from kdse.deploy.export.gru_cell import gru_as_products
    from kdse.deploy.export.metadata import describe_export
    from kdse.models.checkpoint import load_model
    from kdse.pretrained import find

    model = load_model(find("cruse-30k"))
    graph = graph_of(model, stft="outside")
    with gru_as_products(model):
        content = build(graph)
    path = tmp_path_factory.mktemp("export") / "float.onnx"
    path.write_bytes(with_metadata(content, describe_export(graph, None)))
    return path


def enhanced(path: Path, wave: np.ndarray) -> torch.Tensor:
    from kdse.models.onnx_student import OnnxStudent

    with torch.no_grad():
        return OnnxStudent(str(path))(torch.from_numpy(wave)[None]).waveform


@pytest.mark.integration
@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_an_8_bit_file_is_small_says_so_and_sounds_the_same(float_file: Path, tmp_path: Path, mode: str) -> None:
    from kdse.models.onnx_student import read_metadata

    target = tmp_path / "int8.onnx"
    report = quantise_file(float_file, target, mode, [noisy(2.0)] if mode == "static" else None)
    about: Any = read_metadata(target)
    assert about["quantized"] == report
    assert report["weight_bytes"] == initializer_bytes(target.read_bytes())
    assert report["weight_bytes"] <= 0.4 * initializer_bytes(float_file.read_bytes())
    wave = noisy(2.0, seed=7)
    wanted, found = enhanced(float_file, wave), enhanced(target, wave)
    ratio = 10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum())
    assert 20 < ratio < 80  # close to the float file, and not the float file itself
    assert report["si_sdr_to_float_db"] > 15  # (on another kind of signal than the two seconds of calibration)


def test_static_keeps_what_hears_the_signal_first_in_float(float_file: Path, tmp_path: Path) -> None:
    """The mel matrix gets raw magnitudes: no rounded activation may feed it."""
    target = tmp_path / "int8.onnx"
    report = quantise_file(float_file, target, "static", [noisy(1.0)])
    graph = onnx.load(target).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    nodes = {node.name: node for node in graph.node}
    (mel,) = report["float_activations"]
    assert made_by[nodes[mel].input[0]] != "DequantizeLinear"
    assert made_by[nodes[mel].input[1]] == "DequantizeLinear"
    others = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm") and node.name != mel]
    assert others
    assert all(made_by[node.input[0]] == "DequantizeLinear" for node in others)


def test_stored_weights_are_within_half_a_step_of_their_channel(float_file: Path) -> None:
    from onnx import numpy_helper

    before, model = onnx.load(float_file), onnx.load(float_file)
    names = store_in_8_bits(model)
    assert names == [node.name for node in weighted_nodes(before.graph)]
    assert len(names) > 20
    new = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    axes = {node.output[0]: node.attribute[0].i for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for tensor in before.graph.initializer:
        if tensor.name not in axes:
            continue
        weight, axis = numpy_helper.to_array(tensor), axes[tensor.name]
        for channel in range(weight.shape[axis]):
            scale = new[f"{tensor.name}.scale"][channel]
            stored = new[f"{tensor.name}.int8"].take(channel, axis).astype(np.float64)
            assert np.abs(stored * scale - weight.take(channel, axis)).max() <= 0.5001 * scale


def test_the_first_operator_is_the_mel_matrix(float_file: Path) -> None:
    graph = onnx.load(float_file).graph
    (name,) = first_weighted(graph)
    (weight,) = [node.input[1] for node in graph.node if node.name == name]
    (dims,) = [list(tensor.dims) for tensor in graph.initializer if tensor.name == weight]
    assert dims == [257, 80]


def test_calibration_takes_train_mixtures_of_a_corpus_and_never_its_test_split(tmp_path: Path) -> None:
    from kdse.deploy.export.quantise import calibration_clips

    root = make_corpus(tmp_path / "corpus", files=1, seconds=0.5)
    first = calibration_clips(root, 16000, clips=2)
    for part in ("speech", "noise"):
        for file in (root / part / "test").iterdir():
            file.unlink()
    assert all(np.array_equal(a, b) for a, b in zip(first, calibration_clips(root, 16000, clips=2), strict=True))
    plain = put(tmp_path / "plain" / "a.wav", noisy(0.5)).parent
    (clip,) = calibration_clips(plain, 16000)
    assert np.allclose(clip, noisy(0.5), atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "static"}, "give --calibration"),
        ({"mode": "static", "calibration": []}, "holds no audio"),
        ({"mode": "static", "calibration": Path("/nowhere")}, "--calibration /nowhere"),
        ({"mode": "int4"}, "use one of static, dynamic, weights"),
        ({"activations": "float"}, "use one of uint8, int16"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(
    float_file: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        quantise_file(float_file, tmp_path / "int8.onnx", **settings)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_quantised_file_is_not_quantised_again(float_file: Path, tmp_path: Path) -> None:
    once = tmp_path / "once.onnx"
    quantise_file(float_file, once, "weights")
    with pytest.raises(ValueError, match="float file"):
        quantise_file(once, tmp_path / "twice.onnx", "weights")


@pytest.mark.slow
def test_int8_loses_less_than_a_tenth_of_a_db_on_real_mixtures(float_file: Path, tmp_path: Path) -> None:
    from kdse.data.mixtures import Mixtures

    root = real_corpus()
    target = tmp_path / "int8.onnx"
    quantise_file(float_file, target, "static", root)
    data = Mixtures(root=str(root), seed=0, test_items=12)
    mixtures = data.mixture_set("test", data.test_snr_db, 64000, 48, True)

    def score(path: Path) -> float:  # SI-SDR in dB
        values = []
        for item in (mixtures[i] for i in range(48)):
            clean, found = item["clean"].double(), enhanced(path, item["noisy"].numpy())[0].double()
            clean, found = clean - clean.mean(), found - found.mean()
            speech = (found @ clean) / (clean @ clean) * clean
            values.append(10 * np.log10(speech.square().sum() / (found - speech).square().sum()))
        return float(np.mean(values))

    assert score(target) > score(float_file) - 0.1


@pytest.mark.slow
def test_transposed_convolutions_in_groups_are_stored_in_8_bits_and_keep_float_activations(tmp_path: Path) -> None:
    from kdse.deploy.export.format import Options
    from kdse.deploy.export.write import export_file
    from tests.deploy.export.tiny import built

    folder = tmp_path / "noisy"
    put(folder / "a.wav", noisy(2.0))
    options = Options(quantize="int8", calibration=folder)
    done = export_file(built("gtcrn"), tmp_path / "int8.onnx", options=options).metadata["quantized"]
    graph = onnx.load(tmp_path / "int8.onnx").graph
    grouped = {n.name for n in graph.node if n.op_type == "ConvTranspose" and any(a.i == 2 for a in n.attribute)}
    assert grouped and grouped <= set(done["float_activations"]) and done["si_sdr_to_float_db"] > 10
