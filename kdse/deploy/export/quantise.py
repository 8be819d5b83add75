"""`quantise_file`: a step graph of `kdse export` with 8-bit weights, by ONNX Runtime's quantiser and our own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdse.deploy.export import onnx_file, parity
from kdse.deploy.export.calibration import calibration_clips, feeds
from kdse.machine.files import write_bytes
from kdse.models.onnx_student import OnnxStudent, read_metadata

MODES = ("static", "dynamic", "weights")
ACTIVATIONS = ("uint8", "int16")
#: Operators with weights that are worth storing in 8 bits: all of them multiply by a constant second input.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantise_file(
    source: Path,
    target: Path,
    mode: str = "static",
    calibration: Path | Iterable[np.ndarray] | None = None,
    activations: str = "uint8",
) -> dict[str, Any]:
    """Writes ``source`` with 8-bit weights to ``target``, which appears only once it is complete.

    All modes store each weight as int8 with one scale per output channel. States and layer norms stay float. Figures
    by which this layout was chosen: CRUSE with 62,313 parameters (earlier weights than the shipped ones, whose figures
    are in experiments/README.md), STFT outside; SI-SDR lost to float, in dB, on 48 mixtures of the test split / 110
    VoiceBank pairs; SI-SDR of the output against the float file's on the mixtures; weight bytes of float's.

    - "static": activations of all weighted operators in 8 bits, their ranges fixed by calibration. Operators that get
      the signal first keep float activations (see `first_weighted`): quantised too, with the results of products,
      they cost 0.26 / 0.46 dB. 0.000 / 0.034 dB lost, 39.4 dB, 30 %. Results of products stay float, for they are
      normalised or summed next: in 8 bits as well it was 0.013 / 0.040 dB and 36.7 dB (calibrated on 20 s).
    - "dynamic": activations of matrix products (the GRUs) in 8 bits, scaled anew every hop, no calibration.
      0.007 / 0.005 dB lost, 48.0 dB, 28 %. With convolutions as well: 42.5 dB.
    - "weights": activations stay float, no calibration. 0.007 / 0.006 dB lost, 47.4 dB, 28 %.

    Args:
        source: a float step graph whose GRUs are matrix products (`gru_as_products`); GRU nodes are left alone.
        target: the file to write.
        mode: one of `MODES`.
        calibration: for "static": a corpus or folder (see `calibration_clips`), or noisy clips ``[N]``.
        activations: of "static": "uint8", or "int16" (46.1 dB; runtimes compute in float then).

    Returns:
        The metadata's entry "quantized": what was done, weight bytes before and after, the difference to float.

    Raises:
        ValueError: for an unknown mode, missing calibration or packages, or a file that is no float step graph.
    """
    if mode not in MODES:
        raise ValueError(f"--quantize {mode}: use one of {', '.join(MODES)}")
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations={activations!r}: use one of {', '.join(ACTIVATIONS)}")
    if mode == "static" and calibration is None:
        raise ValueError("--quantize int8: needs audio that sets the ranges: give --calibration FOLDER of noisy speech")
    onnx = _packages()
    about = read_metadata(source)
    if about is None or about["kind"] != "step" or about["quantized"] is not None:
        raise ValueError(f"--quantize: {source} must be a float file of one hop a call: kdse export --streaming")
    before = source.read_bytes()
    graph = onnx.load_model_from_string(before).graph
    first = first_weighted(graph)
    recurrent = [node.name for node in graph.node if node.op_type in ("GRU", "LSTM", "RNN")]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, onnx_file.quiet():
        draft = Path(folder) / "draft.onnx"
        if mode == "static":
            assert calibration is not None
            rate = about["sample_rate_hz"]
            clips = calibration_clips(calibration, rate) if isinstance(calibration, Path) else list(calibration)
            if not clips:
                raise ValueError("--calibration: holds no audio; give at least a few seconds of noisy speech")
            _static(source, draft, clips, first, activations)
            seconds = sum(len(clip) for clip in clips) / rate
        else:
            seconds = 0.0
            _dynamic(source, draft, first) if mode == "dynamic" else draft.write_bytes(before)
        model = onnx.load(draft)
    kept = store_in_8_bits(model)
    done: dict[str, Any] = {
        "mode": mode,
        "weights": "int8, one scale per channel",
        "activations": {"static": activations, "dynamic": "uint8 in matrix products", "weights": "float32"}[mode],
        "float_activations": kept,
        "calibration_seconds": seconds,
        "operators_quantised": len(weighted_nodes(graph)),
        "operators_left": recurrent,
        "quantise_seconds": round(time.perf_counter() - started, 1),
    }
    content = onnx_file.with_metadata(model.SerializeToString(deterministic=True), {**about, "quantized": done})
    done |= _sizes(before, content) | _difference(source, content, about["sample_rate_hz"])
    write_bytes(target, onnx_file.with_metadata(content, {**about, "quantized": done}))
    return done


def _static(source: Path, target: Path, clips: list[np.ndarray], first: list[str], activations: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.hops = feeds(source, clips)

        def get_next(self) -> Any:
            return next(self.hops, None)

    quantize_static(
        str(source),
        str(target),
        Reader(),
        op_types_to_quantize=list(WEIGHTED),
        per_channel=True,
        activation_type=QuantType.QUInt8 if activations == "uint8" else QuantType.QInt16,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=first,
        extra_options={"OpTypesToExcludeOutputQuantization": list(WEIGHTED)},
    )


def _dynamic(source: Path, target: Path, first: list[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(source),
        str(target),
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=first,
    )


def _sizes(before: bytes, after: bytes) -> dict[str, Any]:
    counts = [onnx_file.initializer_bytes(content) for content in (before, after)]
    return {
        "weight_bytes_float": counts[0],
        "weight_bytes": counts[1],
        "weight_share": round(counts[1] / counts[0], 4),
        "file_bytes_float": len(before),
        "file_bytes": len(after),
    }


def _difference(source: Path, content: bytes, sample_rate_hz: int) -> dict[str, Any]:
    """SI-SDR of the quantised file's output against the float one's, on the signal of `parity.probe`."""
    from kdse.losses.si_sdr import si_sdr

    noisy, signal = parity.probe(sample_rate_hz, None)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        draft = Path(folder) / "draft.onnx"
        draft.write_bytes(content)
        wanted, found = (OnnxStudent(str(path))(noisy).waveform for path in (source, draft))
    return {
        "si_sdr_to_float_db": round(float(si_sdr(found, wanted).mean()), 2),
        "si_sdr_signal": parity.published(signal),
    }


def _packages() -> Any:
    try:
        import onnx
        import onnxruntime.quantization  # noqa: F401 (quantises later)
    except Exception as error:  # (a compiled package can fail in any way)
        raise ValueError(f"--quantize: needs onnx and onnxruntime ({error}): pip install 'kdse[onnx]'") from None
    return onnx


def weighted_nodes(graph: Any) -> list[Any]:
    """The nodes of a graph that multiply by a float32 constant."""
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == 1}
    return [node for node in graph.node if node.op_type in WEIGHTED and node.input[1] in floats]


def first_weighted(graph: Any) -> list[str]:
    """Names of the weighted nodes that the signal, the graph's first input, reaches through no other weighted node.

    In CRUSE that is the mel matrix: its input are raw magnitudes, which span far more than 8 bits hold.
    """
    weighted = {node.name for node in weighted_nodes(graph)}
    reached, found = {graph.input[0].name}, []
    for node in graph.node:  # (ONNX keeps nodes in the order in which they run)
        if reached.isdisjoint(node.input):
            continue
        if node.name in weighted:
            found.append(node.name)
        else:
            reached.update(node.output)
    return found


def store_in_8_bits(model: Any) -> list[str]:
    """Replaces every float32 weight by int8 values, one scale per output channel, and a DequantizeLinear node.

    The scale is the channel's largest magnitude / 127, so no weight moves by more than half a scale. Biases stay.

    Args:
        model: an `onnx.ModelProto`; it is changed.

    Returns:
        Names of the nodes that got such weights; they take activations in float.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = weighted_nodes(graph)
    axes = {node.input[1]: _channel_axis(node, len(constants[node.input[1]].dims)) for node in nodes}
    for name, axis in axes.items():
        values, scale = _rounded(numpy_helper.to_array(constants[name]), axis)
        graph.initializer.remove(constants[name])
        graph.initializer.extend(
            [numpy_helper.from_array(values, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
        )
        inputs = [f"{name}.int8", f"{name}.scale"]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}.float", axis=axis))
    return [node.name for node in nodes]


def _rounded(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = (np.abs(weight).max(axis=others) / 127).astype(np.float32)
    scale[scale == 0] = 1
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return np.rint(weight / scale.reshape(shape)).clip(-127, 127).astype(np.int8), scale


def _channel_axis(node: Any, rank: int) -> int:
    """The axis of a node's weight that becomes its output's channels."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}[node.op_type]
