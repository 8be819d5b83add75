"""The model of the page: an exported step graph, checked before it is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.machine.packages import required
from kdse.models.exported import parse

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

#: Types of states as the metadata and as onnxruntime name them; the page's script has arrays for these.
_DTYPES = {"float32": "tensor(float)", "float64": "tensor(double)"}

_FIX = "make it with `kdse export CKPT --format onnx --streaming`"


def read_step_graph(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A step graph's bytes and its metadata.

    Raises:
        ValueError: naming the file, if it is no exported step graph with the STFT inside, or does not fit its metadata.
    """
    ort = required("onnxruntime")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        # From bytes: a graph that keeps weights in a second file, which the page would lack, fails here.
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not an ONNX file that runs on its own ({reason})") from None
    text = session.get_modelmeta().custom_metadata_map.get("kdse")
    if text is None:
        raise ValueError(f"{path}: not exported by kdse (no metadata of its own); {_FIX}")
    about = parse(text, str(path))
    if (about["kind"], about["stft"]) != ("step", "inside"):
        form = f"{about['kind']} graph with the STFT {about['stft']}"
        raise ValueError(f"{path}: a {form}; the page needs a step graph with it inside, {_FIX}")
    _check_fit(path, session, about)
    return content, about


def _check_fit(path: Path, session: InferenceSession, about: dict[str, Any]) -> None:
    inputs = {"audio": ([1, about["hop_samples"]], _DTYPES["float32"])}
    for state in about["states"]:
        inputs[f"state.{state['name']}"] = (state["shape"], _DTYPES[state["dtype"]])
    outputs = {name.replace("state.", "next.", 1).replace("audio", "enhanced"): form for name, form in inputs.items()}
    latency = about["latency_samples"]
    good = latency is not None and latency >= about["hop_samples"]
    if not good or not (_fits(session.get_inputs(), inputs) and _fits(session.get_outputs(), outputs)):
        raise ValueError(f"{path}: its inputs and outputs are not those that its metadata name; {_FIX}")


def _fits(nodes: Any, expected: dict[str, tuple[list[int], str]]) -> bool:
    """Whether names, types and shapes agree; a dynamic axis (the batch) fits any length."""
    if {node.name for node in nodes} != set(expected):
        return False
    for node in nodes:
        shape, dtype = expected[node.name]
        lengths = zip(node.shape, shape, strict=False)
        if node.type != dtype or len(node.shape) != len(shape):
            return False
        if any(isinstance(have, int) and have != want for have, want in lengths):
            return False
    return True


def facts(about: dict[str, Any], content: bytes) -> list[tuple[str, str]]:
    """What the page tells about the model: name and text."""
    latency_ms = 1000 * about["latency_samples"] / about["sample_rate_hz"]
    rows = [
        ("Model", str((about.get("model") or {}).get("class_path", "")).rpartition(".")[2]),
        ("Parameters", f"{about['parameters']:,}" if about.get("parameters") else ""),
        ("Weights", "int8" if about.get("quantized") else "float32"),
        ("Model file", f"{len(content) / 1e6:.2f} MB"),
        ("Sample rate", f"{about['sample_rate_hz'] / 1000:g} kHz"),
        ("Latency", f"{latency_ms:g} ms ({about['latency_samples']} samples)"),
        ("Made with", f"kdse {about['kdse_version']}" if about.get("kdse_version") else ""),
        ("Fingerprint of the weights", str(about.get("weights_sha256") or "")[:12]),
    ]
    return [(name, text) for name, text in rows if text]
