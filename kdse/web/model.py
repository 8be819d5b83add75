"""The model of the page: an exported step graph, checked before it is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.errors import UserError
from kdse.machine.onnx_sessions import open_session, run_session
from kdse.models.exported import parse

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FIX = "make it with `kdse export CKPT --format onnx --streaming`"


def read_step_graph(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A step graph's bytes and its metadata.

    Raises:
        UserError: naming the file, if it is no exported step graph with the STFT inside, or does not fit its metadata.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    # From bytes: a graph that keeps weights in a second file, which the page would lack, fails here.
    session = open_session(content, 1, f"{path}: not an ONNX file that runs on its own, as it")
    text = session.get_modelmeta().custom_metadata_map.get("kdse")
    if text is None:
        raise UserError(f"{path}: not exported by kdse (no metadata of its own); {FIX}")
    about = parse(text, str(path))
    if (about["kind"], about["stft"]) != ("step", "inside"):
        form = f"{about['kind']} graph with the STFT {about['stft']}"
        raise UserError(f"{path}: a {form}; the page needs a step graph with it inside, {FIX}")
    if not _fits(session, about):
        raise UserError(f"{path}: its inputs and outputs are not those that its metadata name; {FIX}")
    return content, about


def _fits(session: InferenceSession, about: dict[str, Any]) -> bool:
    """Whether the graph takes and gives what its metadata name: names, types and shapes."""
    import numpy as np

    hop = np.zeros((1, about["hop_samples"]), np.float32)
    states = {state["name"]: np.zeros(state["shape"], state["dtype"]) for state in about["states"]}
    try:
        feeds = {"audio": hop, **{f"state.{name}": state for name, state in states.items()}}
        outputs = run_session(session, None, feeds, "the graph")
    except UserError:
        return False
    found = {node.name: (x.shape, x.dtype) for node, x in zip(session.get_outputs(), outputs, strict=True)}
    expected = {"enhanced": hop, **{f"next.{name}": state for name, state in states.items()}}
    bounded = about["latency_samples"] is not None and about["latency_samples"] >= about["hop_samples"]
    return bounded and found == {name: (x.shape, x.dtype) for name, x in expected.items()}


def facts(about: dict[str, Any], content: bytes) -> list[tuple[str, str]]:
    """What the page tells about the model: name and text."""
    latency_ms = 1000 * about["latency_samples"] / about["sample_rate_hz"]
    rows = {
        "Model": str((about.get("model") or {}).get("class_path", "")).rpartition(".")[2],
        "Parameters": f"{about['parameters']:,}" if about.get("parameters") else "",
        "Weights": "int8" if about.get("quantized") else "float32",
        "Model file": f"{len(content) / 1e6:.2f} MB",
        "Sample rate": f"{about['sample_rate_hz'] / 1000:g} kHz",
        "Latency": f"{latency_ms:g} ms ({about['latency_samples']} samples)",
        "Made with": f"kdse {about['kdse_version']}" if about.get("kdse_version") else "",
        "Fingerprint of the weights": str(about.get("weights_sha256") or "")[:12],
    }
    return [(name, text) for name, text in rows.items() if text]
