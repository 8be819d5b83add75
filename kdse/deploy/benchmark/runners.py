"""What is timed: something that takes one hop of audio and returns one, with as little around it as its runtime allows.

Each runner imports its own runtime only, so that a process that times an ONNX file never holds torch in its memory.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdse.errors import UserError
from kdse.machine.onnx_sessions import HopLoop, open_session
from kdse.machine.packages import required
from kdse.pretrained import is_onnx

#: The label of RNNoise on the command line and in the table.
RNNOISE = "rnnoise"


class Runner(NamedTuple):
    """A denoiser ready to run.

    process: takes the next hop, float32 ``[hop_samples]`` in [-1, 1], and returns as many enhanced samples.
    """

    process: Callable[[np.ndarray], np.ndarray]
    sample_rate_hz: int
    hop_samples: int
    latency_samples: int
    runtime: str


def open_runner(source: str, threads: int) -> Runner:
    """The runner of a kdse checkpoint (torch), an exported streaming graph (.onnx) or "rnnoise".

    Args:
        source: a file, or "rnnoise".
        threads: of the runtime; RNNoise always has one.

    Raises:
        ValueError: if it cannot run hop by hop, or its runtime is not installed.
    """
    if source == RNNOISE:
        return rnnoise_runner()
    return onnx_runner(Path(source), threads) if is_onnx(source) else torch_runner(Path(source), threads)


def torch_runner(path: Path, threads: int) -> Runner:
    """A checkpoint's model, `step` by `step`."""
    import torch

    from kdse.models.checkpoint import load_model
    from kdse.models.streaming import can_stream

    torch.set_num_threads(threads)
    model = load_model(path, trust_code=True)  # (`kdse benchmark` has loaded it before)
    if not can_stream(model):
        raise UserError(f"{path}: {type(model).__name__} does not stream, so there is no hop to time; `kdse profile`")
    state = model.initial_state(1)

    @torch.inference_mode()
    def process(hop: np.ndarray) -> np.ndarray:
        nonlocal state
        enhanced, state = model.step(torch.from_numpy(hop)[None], state)
        return enhanced[0].numpy()

    runtime = f"torch {torch.__version__.split('+')[0]}"
    return Runner(process, model.sample_rate_hz, model.hop_samples, model.latency_samples, runtime)


def onnx_runner(path: Path, threads: int) -> Runner:
    """A streaming graph of `kdse export` with the STFT inside, in ONNX Runtime and numpy alone."""
    session = open_session(str(path), threads, str(path))
    about: dict[str, Any] = json.loads(session.get_modelmeta().custom_metadata_map.get("kdse", "null") or "null") or {}
    if about.get("kind") != "step" or about.get("stft") != "inside":
        raise UserError(
            f"{path}: not a streaming graph with the STFT inside; make one: kdse export CKPT --format onnx --streaming"
        )
    states = {state["name"]: np.zeros(state["shape"], dtype=state["dtype"]) for state in about["states"]}
    loop = HopLoop(session, ("audio", "enhanced"), (1, about["hop_samples"]), states, str(path))

    def process(hop: np.ndarray) -> np.ndarray:
        return loop(hop)[0].copy()

    runtime = f"onnxruntime {required('onnxruntime').__version__}"
    return Runner(process, about["sample_rate_hz"], about["hop_samples"], about["latency_samples"], runtime)


def rnnoise_runner() -> Runner:
    """RNNoise (Valin 2018) from the pyrnnoise wheel: 48 kHz, hops of 10 ms.

    Only the wheel's binding to the C library is loaded, not its file reader and plots, which would count as memory.
    """
    package = importlib.util.find_spec("pyrnnoise")
    if package is None or not package.submodule_search_locations:
        raise UserError("RNNoise needs pyrnnoise: pip install 'kdse[benchmark]', or leave it out with --no-rnnoise")
    file = Path(package.submodule_search_locations[0]) / "rnnoise.py"
    spec = importlib.util.spec_from_file_location("kdse_rnnoise_binding", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: not there; another version of pyrnnoise than 0.4.5? leave it out with --no-rnnoise")
    binding = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(binding)
    except OSError as error:
        raise UserError(f"RNNoise's library does not load here ({error}); leave it out with --no-rnnoise") from None
    state, library, hop_samples = binding.create(), binding.lib, int(binding.FRAME_SIZE)
    pointer = binding.ctypes.POINTER(binding.ctypes.c_float)

    def process(hop: np.ndarray) -> np.ndarray:
        frame = hop * np.float32(32768)  # its samples are those of 16-bit audio
        address = frame.ctypes.data_as(pointer)
        library.rnnoise_process_frame(state, address, address)
        return frame / np.float32(32768)

    # its output lags two hops behind its input (measured on speech), and the hop itself has to be collected
    return Runner(process, 48000, hop_samples, 3 * hop_samples, "C library of pyrnnoise")
