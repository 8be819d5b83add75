"""What a model costs to run: parameters, multiply-accumulates (MACs), latency, real-time factor."""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kdse.internals.torch import watched
from kdse.models.base import SpeechModel
from kdse.models.probing import probe_signal, undisturbed
from kdse.models.streaming import can_stream

#: Operators that only make, move or describe data; they are neither counted nor listed as uncounted.
# fmt: off
MOVES = {
    "_reshape_copy", "_to_copy", "_unsafe_view", "arange", "cat", "clone", "constant_pad_nd", "contiguous", "copy_",
    "detach", "empty", "empty_like", "fill_", "flip", "full", "full_like", "index", "index_select", "lift_fresh",
    "new_empty", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "repeat", "resize_", "roll",
    "scalar_tensor", "squeeze_", "stack", "transpose_", "unsafe_split", "unsqueeze_", "zero_", "zeros", "zeros_like",
}
# fmt: on


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of a model.

    per_second: MACs for one more second of audio, the difference between a clip and one twice as long.
    clip: MACs for the shorter clip of ``clip_seconds``, edge frames included.
    counted: MACs per second of audio by operator, e.g. ``{"convolution": ..., "addmm": ...}``.
    uncounted: calls by operator of all other arithmetic in the clip (norms, activations, FFTs), which is left out.
    """

    per_second: float
    clip: int
    clip_seconds: float
    counted: dict[str, float]
    uncounted: dict[str, int]

    @property
    def linear(self) -> bool:
        """Whether cost is proportional to length (attention over the whole clip is not)."""
        return self.per_second * self.clip_seconds < 1.1 * self.clip


def count_macs(model: SpeechModel, seconds: float = 2.0) -> Macs:
    """Counts the MACs of convolutions, matrix products (linear layers, recurrent layers) and attention.

    A transposed convolution is counted at its input positions (each input sample meets each weight once). ``seconds``
    is the length of the shorter clip, rounded to whole hops.
    """
    hops = max(1, round(seconds * model.sample_rate_hz / model.hop_samples))
    samples = hops * model.hop_samples
    once, uncounted = _count(model, samples)
    twice, _ = _count(model, 2 * samples)
    clip_seconds = samples / model.sample_rate_hz
    counted = {name: (twice[name] - once.get(name, 0)) / clip_seconds for name in twice}
    return Macs(sum(counted.values()), sum(once.values()), clip_seconds, counted, uncounted)


def _count(model: SpeechModel, samples: int) -> tuple[dict[str, int], dict[str, int]]:
    signal = probe_signal(model, samples)
    others: Counter[str] = Counter()

    def note(op: Any) -> None:
        name = _name(op)
        if not op.is_view and name not in MOVES:
            others[name] += 1

    with undisturbed(model), _plain_kernels(), FlopCounterMode(display=False) as counter, watched(note):
        model(signal)
    counts = {_name(op): flops // 2 for op, flops in counter.get_flop_counts().get("Global", {}).items()}
    return counts, {name: calls for name, calls in sorted(others.items()) if name not in counts}


def _name(op: Any) -> str:
    return str(op).removeprefix("aten.").split(".")[0]


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Turns off fused kernels (LSTM, attention), whose insides no counter sees."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            warnings.simplefilter("ignore")  # torch warns about Intel GPUs when oneDNN flags are touched
            with torch.backends.mkldnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@dataclass(frozen=True)
class Timing:
    """Seconds of computation per second of audio; below 1 is faster than real time."""

    real_time_factor: float
    fastest: float
    slowest: float
    runs: int


def time_whole(model: SpeechModel, seconds: float = 2.0, runs: int = 7, threads: int = 1) -> Timing:
    """Real-time factor of the forward pass over a clip: median of ``runs`` after two warm-up runs."""
    signal = probe_signal(model, max(1, round(seconds * model.sample_rate_hz)))
    duration = signal.shape[1] / model.sample_rate_hz
    with undisturbed(model), cpu_threads(threads):
        times = [_seconds(partial(model, signal), signal)[1] / duration for _ in range(runs + 2)][2:]
    return Timing(statistics.median(times), min(times), max(times), runs)


def time_streaming(model: SpeechModel, hops: int = 60, threads: int = 1) -> Timing | None:
    """Real-time factor hop by hop: median over ``hops`` steps after ten; None if the model does not stream."""
    if not can_stream(model):
        return None
    duration = model.hop_samples / model.sample_rate_hz
    signal = probe_signal(model, model.hop_samples * (hops + 10))
    times = []
    with undisturbed(model), cpu_threads(threads):
        state = model.initial_state(1)
        for hop in signal.split(model.hop_samples, dim=1):
            (_, state), seconds = _seconds(partial(model.step, hop, state), signal)
            times.append(seconds / duration)
    times = times[10:]
    return Timing(statistics.median(times), min(times), max(times), hops)


def _seconds(work: Callable[[], Any], signal: torch.Tensor) -> tuple[Any, float]:
    """The result of some work on the signal's device, and how long it took."""
    start = time.perf_counter()
    result = work()
    if signal.is_cuda:
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Runs the body with so many torch threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
