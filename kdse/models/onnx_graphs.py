"""ONNX graphs on frames as models: `OnnxStream` runs one frame a call with state, `OnnxSpectral` whole signals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import EinopsError, rearrange
from torch import Tensor

from kdse.audio.alignment import fit_length
from kdse.errors import UserError
from kdse.internals.lean_imports import uncompiled
from kdse.machine.onnx_sessions import open_session, run_session
from kdse.models.base import UNBOUNDED, Estimate, SpeechModel
from kdse.models.foreign import file_identity
from kdse.models.front_ends import Frames, FrontEnd, as_numpy, declared, given, recognised, taken
from kdse.models.onnx_ports import audio_port, canonical, dtype_of, paired, ports_of
from kdse.trust import LARGEST_STATE_BYTES

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OtherClass(UserError):
    """A graph for whole signals where one for frames is meant, or the other way round."""


class OnnxSpectral(SpeechModel):
    """A graph over all STFT frames of a signal at once, without state inputs, such as NSNet2.

    It has one input ``[B, T, F]`` in any order of axes, further ones of size 1 among them, with a free time axis, and
    real and imaginary part on an axis of size 2. An interface that is widely used is recognised from the graph itself
    (`kdse.models.front_ends.KNOWN`), so that ``path`` is enough; for any other one the arguments declare the front
    end, as `kdse.models.front_ends.FrontEnd` explains them. Given ones win over what is recognised.

    It runs on the CPU whatever the student's device, without gradient and without taps. Look-ahead and latency follow
    from the front end. A checkpoint that names such a file is refused unless the reader passes --trust-code. Needs the
    package onnxruntime (tested with 1.31).

    Args:
        path: the file; a folder stands for the .onnx files in it, in the order of their names.
        takes: "spectrum", "magnitude", "log_power", "frame" or "waveform"; a list for several graphs in a row.
        gives: "spectrum", "mask", "gain", "frame" or "waveform"; None is what goes with ``takes``.
        transform: points of the Fourier transform.
        hop: samples between frames.
        window: "sqrt_hann", "hann" or "ones", for analysis and synthesis.
        window_samples: length of the window; None is that of the transform.
        centred: False starts with the first frame that lies in the signal as a whole.
        causal: whether a frame depends on no later one; known of graphs with state.
        sample_rate_hz: rate the network works at; None is that of the recognised interface, or 16000.
        states: output of the new state by the input of the old one, where names and shapes do not tell.
        constants: values of inputs that are neither audio nor state.
        threads: items of a batch that are run side by side; 0 takes as many as torch has threads.

    Raises:
        UserError: listing inputs, outputs and the arguments that describe them, for an interface that is not known.
    """

    brings_weights = True
    file_sha256: Tensor
    streams = False

    def __init__(
        self,
        path: str | list[str],
        takes: str | list[str] | None = None,
        gives: str | list[str] | None = None,
        transform: int | None = None,
        hop: int | None = None,
        window: str | None = None,
        window_samples: int | None = None,
        centred: bool | None = None,
        causal: bool | None = None,
        sample_rate_hz: int | None = None,
        states: dict[str, str] | None = None,
        constants: dict[str, float] | None = None,
        threads: int = 0,
    ) -> None:
        super().__init__()
        source = f"{type(self).__name__}: path {path if isinstance(path, str) else ', '.join(path)}"
        files = graph_files(path, source)
        sessions = [open_session(str(file), 1, source) for file in files]
        graphs = [ports_of(session) for session in sessions]
        known = recognised(graphs)
        settings = {
            "takes": takes, "gives": gives, "transform": transform, "hop": hop, "window": window,
            "window_samples": window_samples, "centred": centred, "causal": causal, "sample_rate_hz": sample_rate_hz,
        }  # fmt: skip
        self.declared = about = declared(settings, known, graphs, source)
        inputs = [name for graph in graphs for name in graph.inputs]
        if unknown := [name for name in (*(states or ()), *(constants or ())) if name not in inputs]:
            raise UserError(f"{source}: states and constants: {unknown[0]} is no input; there are {', '.join(inputs)}")
        frames = Frames(about) if about.framed else None
        self._frames = (frames,)  # (no submodule: it stays on the CPU, where the graph runs)
        self._graphs = [
            Graph(*parts, about, states or {}, constants or {}, source)
            for parts in zip(sessions, about.takes, about.gives, strict=True)
        ]
        whole = all(graph.free and not graph.states for graph in self._graphs)
        if whole == self.streams:
            raise OtherClass(
                f"{source}: takes all frames of a signal at once; use kdse.models.OnnxSpectral"
                if whole
                else f"{source}: takes one frame a call, or keeps state; use kdse.models.OnnxStream"
            )
        self.threads = threads
        self.sample_rate_hz, self.hop_samples, self.parameter_count = about.sample_rate_hz, about.hop, about.parameters
        self.causal = self.streams or about.causal
        reach = about.hop if frames is None else frames.window_samples
        self.latency_samples, self.lookahead_samples = (reach, reach - 1) if self.causal else (UNBOUNDED, UNBOUNDED)
        self._skipped = 0 if frames is None or about.centred else frames.overlap - 1
        # the weights are in files, not in parameters: their digest stands for them in the fingerprint
        data = [Path(f"{file}.data") for file in files]
        self.register_buffer("file_sha256", file_identity(*files, *data))

    def forward(self, noisy: Tensor) -> Estimate:
        return Estimate(self._enhanced(noisy))

    @uncompiled
    @torch.no_grad()
    def _enhanced(self, noisy: Tensor) -> Tensor:
        (frames,), hop, samples = self._frames, self.hop_samples, noisy.shape[1]
        wave = noisy.detach().to("cpu", torch.float32)
        if frames is None:
            heard = fit_length(wave, -(-samples // hop) * hop).unflatten(1, (-1, hop)).numpy()
        else:
            heard = as_numpy(frames(wave))
        answer = self._enhance(heard[:, self._skipped :])
        before = np.zeros((answer.shape[0], heard.shape[1] - answer.shape[1], answer.shape[2]), answer.dtype)
        answered = torch.from_numpy(np.concatenate([before, answer], axis=1))
        enhanced = answered.flatten(1) if frames is None else frames.inverse(answered.transpose(1, 2), samples)
        return enhanced[:, :samples].to(noisy.device, torch.float32)

    def _enhance(self, heard: np.ndarray) -> np.ndarray:
        """Enhanced frames ``[B, T, F or W]`` of noisy ones ``[B, T, F]``."""
        if all(graph.free_batch for graph in self._graphs):
            return self._through(heard, {})[0]
        return self._side_by_side(lambda item: self._through(item, {})[0], heard)

    def _side_by_side(self, enhance: Any, heard: np.ndarray) -> np.ndarray:
        """``enhance`` of each item ``[1, T, F]``, so many at a time: onnxruntime leaves Python's lock while it runs."""
        items = np.split(heard, len(heard))
        with ThreadPoolExecutor(min(self.threads or torch.get_num_threads(), len(items))) as pool:
            return np.concatenate(list(pool.map(enhance, items)))

    def _through(self, frames: np.ndarray, states: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Frames ``[B, T, F]`` through all graphs in a row, and their new states."""
        new: dict[str, np.ndarray] = {}
        for number, graph in enumerate(self._graphs):
            names = {name: f"graph{number}.{name}" for name in graph.states}
            heard = taken(frames, graph.takes, self.declared)
            answer, after = graph.run(heard, {name: states[full] for name, full in names.items()})
            frames = given(frames, answer, graph.gives, self.declared)
            new |= {names[name]: value for name, value in after.items()}
        return frames, new

    def _initial(self) -> dict[str, np.ndarray]:
        return {
            f"graph{number}.{name}": np.zeros(graph.shapes[name], graph.kinds[name])
            for number, graph in enumerate(self._graphs)
            for name in graph.states
        }


class OnnxStream(OnnxSpectral):
    """A graph that takes one STFT frame (or a hop of samples) a call, with its state, as a model that streams.

    Such as the streaming exports of GTCRN, UL-UNAS and DTLN, whose interfaces it recognises; arguments and limits are
    those of `OnnxSpectral`. States are zero before a signal. The output that holds a state's next value is the one of
    its input's name (apart from words as "in" and "out"), or the only one of its shape and type. Items of a batch are
    run on their own, side by side. Where look-ahead is inside the graph, its output is late; `Aligned` measures that.
    """

    streams = True

    def _enhance(self, heard: np.ndarray) -> np.ndarray:
        def enhance(item: np.ndarray) -> np.ndarray:
            states, answers = self._initial(), []
            for t in range(item.shape[1]):
                answer, states = self._through(item[:, t : t + 1], states)
                answers.append(answer)
            return np.concatenate(answers, axis=1) if answers else self._through(item, states)[0]

        return self._side_by_side(enhance, heard)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        (frames,) = self._frames
        host = {} if frames is None else frames.initial_state(batch, torch.device("cpu"))
        host["skipped"] = torch.zeros(batch, 1, dtype=torch.int64)
        return host | {
            name: torch.from_numpy(value).repeat(batch, *[1] * value.ndim) for name, value in self._initial().items()
        }

    @torch.no_grad()
    def step(self, noisy_hop: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (frames,), hop = self._frames, noisy_hop.to("cpu", torch.float32)
        if frames is None:
            return self.step_spectrum(hop[:, :, None], state)
        return frames.step(hop, state, self.step_spectrum)

    def step_spectrum(self, spectrum: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        heard, (frames,) = as_numpy(spectrum), self._frames
        names = [name for name in state if name.startswith("graph")]
        if int(state["skipped"].max()) < self._skipped:
            return torch.zeros_like(spectrum), {
                "skipped": state["skipped"] + 1,
                **{name: state[name] for name in names},
            }
        rows = [
            self._through(heard[i : i + 1], {name: state[name][i].numpy() for name in names}) for i in range(len(heard))
        ]
        answer = torch.from_numpy(np.concatenate([row[0] for row in rows])).transpose(1, 2)
        new = {name: torch.from_numpy(np.stack([row[1][name] for row in rows])) for name in names}
        return answer if frames is not None else answer[:, :, 0].float(), {"skipped": state["skipped"], **new}


def open_graph(path: str, **settings: Any) -> OnnxSpectral:
    """The model of a file or folder, in eval mode; settings are those of `OnnxSpectral`."""
    try:
        return OnnxStream(path, **settings).eval()
    except OtherClass:
        return OnnxSpectral(path, **settings).eval()


class Graph:
    """One session: which of its inputs and outputs are audio, which are states, and the axes of the audio."""

    def __init__(
        self,
        session: InferenceSession,
        takes: str,
        gives: str,
        about: FrontEnd,
        states: Mapping[str, str],
        constants: Mapping[str, float],
        source: str,
    ) -> None:
        self.session, self.takes, self.gives, self.source = session, takes, gives, source
        ports = ports_of(session)
        self.kinds = {name: dtype_of(kind, name, source) for name, (kind, _) in ports.inputs.items()}
        width, parts = about.width(takes), takes == "spectrum"
        self.input, axes = audio_port(ports.inputs, width, parts, f"takes={takes!r}", source, ports)
        self.free, self.free_batch = (
            letter in axes and not isinstance(ports.inputs[self.input][1][axes.index(letter)], int) for letter in "tb"
        )
        width, parts = about.width(gives), gives in ("spectrum", "mask")
        self.output, answered = audio_port(ports.outputs, width, parts, f"gives={gives!r}", source, ports)
        self._feed = f"{canonical(axes)} -> {' '.join(axes)}"
        self._read = f"{' '.join(answered)} -> {canonical(answered)}"
        others = [name for name in ports.inputs if name != self.input]
        self.shapes = {
            name: [size if isinstance(size, int) else 1 for size in shape] for name, (_, shape) in ports.inputs.items()
        }
        self._constants = {
            name: np.full(self.shapes[name], value, self.kinds[name])
            for name, value in constants.items()
            if name in others
        }
        self.states = paired(ports, [name for name in others if name not in constants], self.output, states, source)
        if sum(8 * math.prod(self.shapes[name]) for name in self.states) > LARGEST_STATE_BYTES:
            raise UserError(f"{source}: its states ask for more than {LARGEST_STATE_BYTES >> 20} MiB")
        self._wanted = [self.output, *self.states.values()]

    def run(self, heard: np.ndarray, states: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Audio ``[B, T, F]`` (``[B, T, F, 2]``) and states in, the same out."""
        fed = rearrange(heard, self._feed).astype(self.kinds[self.input])
        feeds = {self.input: fed, **self._constants, **states}
        answer, *after = run_session(self.session, self._wanted, feeds, self.source)
        audio: np.ndarray | None
        try:
            audio = rearrange(answer, self._read).astype(np.float32, copy=False)
        except EinopsError:
            audio = None
        if audio is None or audio.shape[:2] != heard.shape[:2]:
            raise UserError(
                f"{self.source}: output {self.output} is {list(answer.shape)}, not {self._read.partition(' ->')[0]} of "
                f"{heard.shape[0]} items (b) of {heard.shape[1]} frames (t)"
            )
        return audio, dict(zip(self.states, after, strict=True))


def graph_files(path: str | Sequence[str], source: str) -> list[Path]:
    """The files of a path, of a folder in the order of their names, or of a list."""
    paths = [Path(path)] if isinstance(path, str) else [Path(p) for p in path]
    files = [file for p in paths for file in (sorted(p.glob("*.onnx")) if p.is_dir() else [p])]
    if not files:
        raise UserError(f"{source}: holds no .onnx file")
    return files
