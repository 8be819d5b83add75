"""Front ends of ONNX graphs that work on frames: STFT, kinds of input and output, and the interfaces known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdse.errors import UserError, require_at_least, require_one_of
from kdse.models.onnx_ports import Ports
from kdse.models.stft import Stft
from kdse.pretrained.teachers import TEACHERS

#: What a graph can take, and what it then gives if nothing else is said.
USUAL = {"spectrum": "spectrum", "magnitude": "gain", "log_power": "gain", "frame": "frame", "waveform": "waveform"}
GIVES = ("spectrum", "mask", "gain", "frame", "waveform")
WINDOWS = ("sqrt_hann", "hann", "ones")
#: Least power of a bin in "log_power", that of NSNet2's own features.
POWER_FLOOR = 1e-12


@dataclass(frozen=True)
class FrontEnd:
    """A declared front end; for several graphs in a row ``takes`` and ``gives`` have one entry each.

    takes: "spectrum" (real and imaginary part), "magnitude", "log_power" (log10 of the squared magnitude), "frame"
        (the samples of a windowed frame) or "waveform" (a hop of samples, with no frames around it).
    gives: "spectrum", "mask" (a complex factor of each bin), "gain" (a real one), "frame" (samples, which are
        overlapped and added as they are) or "waveform".
    transform: points of the Fourier transform; 0 for "waveform".
    hop: samples between frames.
    window: "sqrt_hann", "hann" or "ones", for analysis and, divided by their overlap, for synthesis.
    window_samples: length of the window; 0 is that of the transform.
    centred: whether frames begin before the signal, where zeros stand for it, so that every sample lies in as many
        frames. (At a hop of half the window that is the centred STFT.) If not, the first frame is the first whole one,
        and the signal fades in over it.
    causal: of a graph that hears whole signals: whether a frame depends on no later one.
    sample_rate_hz: the rate that the graph works at.
    parameters: of the network; None if unknown.
    """

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    transform: int
    hop: int
    window: str
    window_samples: int = 0
    centred: bool = True
    causal: bool = False
    sample_rate_hz: int = 16000
    parameters: int | None = None

    def __post_init__(self) -> None:
        for taken in self.takes:
            require_one_of("takes", taken, *USUAL)
        for given in self.gives:
            require_one_of("gives", given, *GIVES)
        if len(self.takes) != len(self.gives):
            raise UserError(f"gives={list(self.gives)}: give one for each graph, as in takes={list(self.takes)}")
        if "waveform" in (*self.takes, *self.gives) and {*self.takes, *self.gives} != {"waveform"}:
            raise UserError(f"takes={list(self.takes)}, gives={list(self.gives)}: a waveform goes with no frames")
        require_one_of("window", self.window, *WINDOWS)
        require_at_least(1, hop=self.hop, sample_rate_hz=self.sample_rate_hz)

    @property
    def framed(self) -> bool:
        """Whether the graph works on frames and not on the samples of a hop."""
        return self.takes[0] != "waveform"

    def width(self, what: str) -> int:
        """Values a frame of what a graph takes or gives."""
        bins = self.transform // 2 + 1
        return {"frame": self.window_samples or self.transform, "waveform": self.hop}.get(what, bins)


class Frames(Stft):
    """The STFT of a `FrontEnd`; with the window "ones", and frames of samples that are added as they are."""

    def __init__(self, about: FrontEnd) -> None:
        flat = about.window == "ones"
        super().__init__(about.transform, about.hop, "hann" if flat else about.window, about.window_samples or None)
        if flat:
            self.window.fill_(1)
            self.dual.fill_(about.hop / self.window_samples)

    def synthesise(self, bins: Tensor) -> Tensor:
        """Frames ``[..., W]`` of complex bins ``[..., F]``, or of samples ``[..., W]``, ready to overlap and add."""
        return super().synthesise(bins) if bins.is_complex() else bins


def taken(current: np.ndarray, what: str, about: FrontEnd) -> np.ndarray:
    """What a graph takes ``[B, T, F]`` (``[B, T, F, 2]``) of frames: complex bins or samples ``[B, T, F or W]``."""
    if what == "waveform" or (what == "frame" and not np.iscomplexobj(current)):
        return current
    if what == "frame":
        return np.fft.irfft(current, about.transform)[..., : about.width("frame")]
    bins = current if np.iscomplexobj(current) else np.fft.rfft(current, about.transform)
    if what == "spectrum":
        return np.stack([bins.real, bins.imag], axis=-1)
    power = bins.real**2 + bins.imag**2
    return np.sqrt(power) if what == "magnitude" else np.log10(np.maximum(power, POWER_FLOOR))


def given(current: np.ndarray, answer: np.ndarray, what: str, about: FrontEnd) -> np.ndarray:
    """The frames ``[B, T, F or W]`` that a graph's answer makes of those it heard."""
    if what in ("frame", "waveform"):
        return answer
    if what == "spectrum":
        return answer[..., 0] + 1j * answer[..., 1]
    bins = current if np.iscomplexobj(current) else np.fft.rfft(current, about.transform)
    return bins * (answer if what == "gain" else answer[..., 0] + 1j * answer[..., 1])


class Known(NamedTuple):
    """A widely used interface: how to tell it from the graphs, and its front end."""

    fits: Callable[[Sequence[Ports]], bool]
    about: FrontEnd


def _shapes(graph: Ports) -> list[list[Any]]:
    return [shape for _, shape in graph.inputs.values()]


def _one_frame(cache: str) -> Callable[[Sequence[Ports]], bool]:
    names = {"mix", "conv_cache", cache, "inter_cache"}
    return lambda graphs: [{*graph.inputs} for graph in graphs] == [names] and _shapes(graphs[0])[0] == [1, 257, 1, 2]


def _dtln(graphs: Sequence[Ports]) -> bool:
    state = [1, 2, 128, 2]
    return [_shapes(graph) for graph in graphs] == [[[1, 1, 257], state], [[1, 1, 512], state]]


def _nsnet2(frames: str, bins: int) -> Callable[[Sequence[Ports]], bool]:
    # by the names of the axes too: a mask of so many bins is what many networks make, of other features
    shape = ["batch_size", frames, bins]
    ports = [({"input": shape}, {"output": shape})]
    return lambda graphs: [tuple({n: s for n, (_, s) in of.items()} for of in graph) for graph in graphs] == ports


#: Interfaces that a file alone tells, by the name of the denoiser. GTCRN (Rong et al., ICASSP 2024) and UL-UNAS (Rong
#: et al., 2025) as their authors export them for streaming: the names of the caches tell them apart, and the window is
#: a Hann window for one and its square root for the other. DTLN (Westhausen and Meyer, Interspeech 2020): two graphs.
#: NSNet2 (Braun and Tashev, 2020), the baseline of the DNS challenge: log powers of all frames to their gains. That for
#: 48 kHz gets hops of 10 ms, as the other; its package takes 512 samples, which scored 0.16 dB less on 14 recordings.
KNOWN: dict[str, Known] = {
    "gtcrn": Known(_one_frame("tra_cache"), FrontEnd(("spectrum",), ("spectrum",), 512, 256, "sqrt_hann")),
    "ul-unas": Known(_one_frame("tfa_cache"), FrontEnd(("spectrum",), ("spectrum",), 512, 256, "hann")),
    "dtln": Known(_dtln, FrontEnd(("magnitude", "frame"), ("gain", "frame"), 512, 128, "ones")),
    "nsnet2": Known(_nsnet2("frames", 161), FrontEnd(("log_power",), ("gain",), 320, 160, "sqrt_hann", causal=True)),
    "nsnet2-48k": Known(
        _nsnet2("time", 513),
        FrontEnd(("log_power",), ("gain",), 1024, 480, "sqrt_hann", 960, causal=True),
    ),
}


def recognised(graphs: Sequence[Ports]) -> FrontEnd | None:
    """The front end of the known interface that graphs in a row have; None if it is not known."""
    name = next((name for name, known in KNOWN.items() if known.fits(graphs)), None)
    if name is None:
        return None
    published = TEACHERS[name]
    return replace(KNOWN[name].about, sample_rate_hz=published.sample_rate_hz, parameters=published.parameters)


def declared(settings: Mapping[str, Any], known: FrontEnd | None, graphs: Sequence[Ports], source: str) -> FrontEnd:
    """The front end that settings describe (None: as of the known interface, or what is usual).

    Raises:
        UserError: listing inputs, outputs and the arguments that describe them, if they do not say enough; for
            settings that do not fit together.
    """
    stated = {name: value for name, value in settings.items() if value is not None}
    for name in ("takes", "gives"):
        if name in stated:
            stated[name] = (stated[name],) if isinstance(stated[name], str) else tuple(stated[name])
    if "takes" in stated and "gives" not in stated:
        stated["gives"] = tuple(USUAL.get(what, what) for what in stated["takes"])
    if "waveform" in stated.get("takes", ()):
        stated = {"transform": 0, "window": "ones"} | stated
    base = {} if known is None else asdict(known)
    if missing := [name for name in ("takes", "transform", "hop", "window") if name not in base | stated]:
        ports = " | ".join(graph.listed() for graph in graphs)
        raise UserError(
            f"{source}: its interface is not one that kdse knows ({ports}); describe its front end: takes "
            f"({', '.join(USUAL)}), gives ({', '.join(GIVES)}), transform, hop and window ({', '.join(WINDOWS)}) in "
            f"samples; not given: {', '.join(missing)} (--init hop=256 of a command, init_args of a config)"
        )
    about = FrontEnd(**(base | stated))
    if len(about.takes) != len(graphs):
        raise UserError(f"{source}: takes={list(about.takes)}: is for {len(about.takes)} graphs, not {len(graphs)}")
    return about


def as_numpy(spectrum: Tensor) -> np.ndarray:
    """Frames ``[B, F, T]`` on the CPU as ``[B, T, F]``."""
    return np.ascontiguousarray(torch.movedim(spectrum, 1, 2).numpy())
