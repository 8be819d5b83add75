"""`quantise_file`: a step graph of `kdse export` with 8-bit weights, by ONNX Runtime's quantiser and our own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdse.deploy.export import parity
from kdse.deploy.export.capture import quiet
from kdse.deploy.export.onnx_graph import initializer_bytes, with_metadata
from kdse.errors import UserError
from kdse.machine.files import write_bytes
from kdse.models.onnx_student import OnnxStudent, read_metadata
from kdse.models.streaming import streamed

#: Ways to quantise, as --quantize names them and as `quantise_file` does.
QUANTIZE = {"int8": "static", "int8-dynamic": "dynamic", "int8-weights": "weights"}
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
        mode: "static", "dynamic" or "weights".
        calibration: for "static": a corpus or folder (see `calibration_clips`), or noisy clips ``[N]``.
        activations: of "static": "uint8", or "int16" (46.1 dB; runtimes compute in float then).

    Returns:
        The metadata's entry "quantized": what was done, weight bytes before and after, the difference to float.

    Raises:
        ValueError: for an unknown mode, missing calibration, or a file that is no float step graph.
    """
    if mode not in QUANTIZE.values():
        raise UserError(f"--quantize {mode}: use one of {', '.join(QUANTIZE.values())}")
    if activations not in ACTIVATIONS:
        raise UserError(f"activations={activations!r}: use one of {', '.join(ACTIVATIONS)}")
    if mode == "static" and calibration is None:
        raise UserError("--quantize int8: needs audio that sets the ranges: give --calibration FOLDER of noisy speech")
    import onnx

    about = read_metadata(source)
    if about is None or about["kind"] != "step" or about["quantized"] is not None:
        raise UserError(f"--quantize: {source} must be a float file of one hop a call: kdse export --streaming")
    before, rate = source.read_bytes(), about["sample_rate_hz"]
    graph = onnx.load_model_from_string(before).graph
    started, seconds = time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory() as folder, quiet():
        draft = Path(folder) / "draft.onnx"
        if mode == "static":
            assert calibration is not None
            clips = calibration_clips(calibration, rate) if isinstance(calibration, Path) else list(calibration)
            if not clips:
                raise UserError("--calibration: holds no audio; give at least a few seconds of noisy speech")
            seconds = sum(len(clip) for clip in clips) / rate
            _static(source, draft, clips, first_weighted(graph) + transposed_in_groups(graph), activations)
        elif mode == "dynamic":
            _dynamic(source, draft, first_weighted(graph))
        model = onnx.load(source if mode == "weights" else draft)
    done: dict[str, Any] = {
        "mode": mode,
        "weights": "int8, one scale per channel",
        "activations": {"static": activations, "dynamic": "uint8 in matrix products", "weights": "float32"}[mode],
        "float_activations": store_in_8_bits(model),
        "calibration_seconds": seconds,
        "operators_quantised": len(weighted_nodes(graph)),
        "operators_left": [node.name for node in graph.node if node.op_type in ("GRU", "LSTM", "RNN")],
        "quantise_seconds": round(time.perf_counter() - started, 1),
    }
    content = with_metadata(model.SerializeToString(deterministic=True), {**about, "quantized": done})
    sizes = initializer_bytes(before), initializer_bytes(content)
    done |= {
        "weight_bytes_float": sizes[0],
        "weight_bytes": sizes[1],
        "weight_share": round(sizes[1] / sizes[0], 4),
        "file_bytes_float": len(before),
        "file_bytes": len(content),
    }
    done |= _difference(source, content, rate)
    write_bytes(target, with_metadata(content, {**about, "quantized": done}))
    return done


def _static(source: Path, target: Path, clips: list[np.ndarray], left: list[str], activations: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    hops = _feeds(source, clips)

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(hops, None)

    quantize_static(
        str(source),
        str(target),
        Reader(),
        op_types_to_quantize=list(WEIGHTED),
        per_channel=True,
        activation_type=QuantType.QUInt8 if activations == "uint8" else QuantType.QInt16,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=left,
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


def calibration_clips(folder: Path, sample_rate_hz: int, clips: int = 8) -> list[np.ndarray]:
    """Noisy clips ``[N]`` of up to four seconds; eight, 32 s, are our choice.

    Of a corpus: mixtures of its training speech and noise at -5 to 15 dB, never of its test split. Of any other folder
    of noisy audio files: the beginnings of evenly spaced ones.

    Raises:
        ValueError: if the folder holds no audio.
    """
    from kdse.audio.files import read
    from kdse.audio.listing import audio_files
    from kdse.data.mixtures import Mixtures

    samples = round(4 * sample_rate_hz)
    if (folder / "speech" / "train").is_dir() and (folder / "noise" / "train").is_dir():
        data = Mixtures(root=str(folder), sample_rate_hz=sample_rate_hz, seed=0)
        mixtures = data.mixture_set("train", data.snr_db, samples, clips, False)
        return [mixtures[i]["noisy"].numpy() for i in range(clips)]
    paths = [folder / name for name in audio_files(folder)] if folder.is_dir() else []
    if not paths:
        raise UserError(f"--calibration {folder}: no folder with audio files; give a corpus or a folder of noisy audio")
    spread = [paths[i * len(paths) // clips] for i in range(clips)] if len(paths) > clips else paths
    try:
        return [read(path, sample_rate_hz)[:samples].numpy() for path in spread]
    except ValueError as error:
        raise UserError(f"--calibration {error}") from None


class _Listener(OnnxStudent):
    """A student that keeps what its graph is fed, hop by hop."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.heard: list[dict[str, np.ndarray]] = []

    def run(self, signals: Sequence[Tensor], states: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        (signal,) = signals
        feeds = {f"state.{name}": value.numpy().copy() for name, value in states.items()}
        self.heard.append({self._first: signal.numpy().copy(), **feeds})
        return super().run(signals, states)


def _feeds(path: Path, clips: Iterable[np.ndarray]) -> Iterator[dict[str, Any]]:
    """What the float step graph at ``path`` is fed over the clips, its states as they evolve, hop by hop."""
    student = _Listener(str(path))
    for clip in clips:
        student.heard.clear()
        streamed(student, torch.from_numpy(np.asarray(clip, dtype=np.float32))[None], block_hops=1)
        yield from student.heard


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


def transposed_in_groups(graph: Any) -> list[str]:
    """Names of the transposed convolutions in groups, whose biases ONNX Runtime cannot quantise by channel: it finds
    one scale a channel of a group, and the bias has one value a channel of all groups."""
    return [
        node.name
        for node in graph.node
        if node.op_type == "ConvTranspose" and any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]


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
