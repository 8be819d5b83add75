"""The model contract: what a teacher or a student must offer to kdse."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdse.models.stft import Stft

#: `lookahead_samples` and `latency_samples` of a model whose every output sample depends on the whole signal.
UNBOUNDED = sys.maxsize


class Estimate(NamedTuple):
    """What a model returns for noisy audio ``[B, N]``.

    waveform: enhanced audio ``[B, N]``, the same length as the input.
    spectrum: complex STFT of the estimate ``[B, F, T]``, or None for models without one.
    mask: the gain the model predicted (layout is the model's own), or None.
    """

    waveform: Tensor
    spectrum: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Tap:
    """A distillation point: a dotted module path and the einops layout of that module's output.

    layout: axes of the output in einops notation, e.g. ``"b c t f"`` or ``"b t (c f)"``; brought to [B, C, T, F].
    sizes: axis sizes that the layout cannot infer, e.g. ``{"c": 32}``.
    group: "encoder", "bottleneck" or "decoder"; objectives select by it.
    """

    path: str
    layout: str = "b c t f"
    sizes: dict[str, int] = field(default_factory=dict)
    group: str = ""


def _remember_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Wraps ``__init__`` so that the outermost call stores its bound arguments in ``self.init_args``."""

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        if "init_args" not in self.__dict__:
            bound = inspect.signature(init).bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = dict(list(bound.arguments.items())[1:])
            object.__setattr__(self, "init_args", arguments)
        init(self, *args, **kwargs)

    return wrapper


class SpeechModel(nn.Module):
    """Base class of speech-enhancement models: noisy audio ``[B, N]`` in, `Estimate` out.

    Every instance remembers the arguments it was built with in ``init_args`` (names to values, defaults applied),
    so that checkpoints describe themselves and `kdse.models.budget` can build relatives of other width.

    Class or instance attributes a model sets:
        sample_rate_hz: the rate it works at.
        hop_samples: input samples per step of the model.
        causal: True if no future STFT frame (or no future sample, in the time domain) is used.
        lookahead_samples: the largest m - n such that output sample n depends on input sample m; `UNBOUNDED` if that
            is the whole signal.
        latency_samples: algorithmic latency with hop buffering (512 for CRUSE).
        width_parameters: names of the constructor arguments (an int or a list of ints each) that set the width;
            empty if the family cannot be compressed by width.
        clip: True if the waveform is limited to [-1, 1] after the inverse STFT.
        brings_weights: True if it is built with trained weights, so that it can teach without a checkpoint.
        many_hops: True if `step` takes several hops ``[B, T hop_samples]`` at once, except after the signal ``ended``.
        fixed_samples: the only length of signal it takes; None for any.
        parameter_count: parameters of a network that is in a file and not in this module; None where that is unknown.
    """

    sample_rate_hz: int = 16000
    hop_samples: int = 256
    causal: bool = False
    lookahead_samples: int = 0
    latency_samples: int = 0
    width_parameters: tuple[str, ...] = ()
    clip: bool = False
    brings_weights: bool = False
    many_hops: bool = False
    fixed_samples: int | None = None
    parameter_count: int | None = None
    init_args: dict[str, Any] = {}  # of a class without a constructor of its own

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _remember_arguments(cls.__dict__["__init__"])  # type: ignore[method-assign]  # (to wrap it)

    def forward(self, noisy: Tensor) -> Estimate:
        """Enhances noisy audio ``[B, N]`` (any N of at least one sample)."""
        raise NotImplementedError

    def taps(self) -> dict[str, Tap]:
        """The model's distillation points, name to `Tap`, in order from input to output."""
        return {}

    @classmethod
    def presets(cls) -> list[dict[str, Any]]:
        """Published width settings of the family: dictionaries of width arguments."""
        return []

    @classmethod
    def widths_allowed(cls, widths: dict[str, Any], init_args: dict[str, Any]) -> bool:
        """Whether ``widths`` can be built with the other arguments as in ``init_args`` (divisibility and the like)."""
        return True

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Streaming state before the first hop: a flat dictionary of tensors with the batch first.

        A model whose last outputs depend on where the signal ends has an entry ``ended`` ``[B, 1]``, zero at first.
        Set it to one after the last hop that holds audio; the zero hops after it then bring out the rest. Who never
        ends a signal can ignore it. Entries of its STFT are named in `kdse.models.stft.HOST_STATES`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not stream")

    def step(self, noisy_hop: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """One hop ``[B, hop_samples]`` in, one enhanced hop out, ``latency_samples - hop_samples`` samples late."""
        raise NotImplementedError(f"{type(self).__name__} does not stream")

    def step_spectrum(self, spectrum: Any, state: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
        """`step` without its STFT: one frame ``[B, F, 1]`` and the network's states in, the enhanced frame out.

        Spectra are complex tensors, or what `Stft.analyse` gives within `kdse.deploy.export.spectrum.real_spectra`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no STFT that could stay outside")

    @property
    def front_end(self) -> Stft | None:
        """The STFT around the network: the submodule ``stft``; None in a model without one."""
        stft = self._modules.get("stft")
        return stft if isinstance(stft, Stft) else None

    @property
    def shortest_samples(self) -> int:
        """The shortest signal that an exported graph of whole signals takes: a size of 1 would count as a constant."""
        return 2

    @property
    def latency_ms(self) -> float | None:
        """Algorithmic latency with hop buffering, in milliseconds; None if it is unknown or the whole clip."""
        bounded = self.causal or 0 < self.lookahead_samples < UNBOUNDED
        return 1000 * self.latency_samples / self.sample_rate_hz if bounded else None

    @property
    def device(self) -> torch.device:
        """Where the parameters live (CPU for a model without any)."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device


def rows_of(estimate: Estimate, rows: Tensor) -> Estimate:
    """Some items of an estimate; ``rows`` are indices or a boolean ``[B]``."""
    waveform, spectrum, mask = estimate
    return Estimate(waveform[rows], None if spectrum is None else spectrum[rows], None if mask is None else mask[rows])
