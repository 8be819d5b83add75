"""`Wrapped`: any PyTorch module from waveform to waveform as a teacher or a student."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, first_line, require_at_least
from kdse.internals.lean_imports import uncompiled
from kdse.models.base import Estimate, SpeechModel
from kdse.models.foreign import run_foreign
from kdse.models.state_dicts import load_found

#: Seeds a second construction, which tells random weights from those that a class loads by itself.
OTHER_SEED = 1


class Wrapped(SpeechModel):
    """Adapts a module that kdse knows nothing about: noisy wave in, enhanced wave (or a tuple that starts with it) out.

    The module declares no taps, so name the ones you want in the distiller (``--model.teacher_taps``); `kdse taps`
    lists its modules. A checkpoint of a Wrapped model imports the module's code when it is loaded and is therefore
    refused unless the reader passes --trust-code.

    Args:
        class_path: dotted path of the module's class, e.g. "my_package.MyDenoiser".
        init_args: its constructor arguments.
        weights: file with the module's weights, read as data only; None keeps those that the class builds or loads.
            Where they lie in it (``state_dict``, ``model``, ``generator``) and which prefix their names have is found.
        channel_axis: the module wants and returns ``[B, 1, N]`` instead of ``[B, N]``.
        sample_rate_hz: rate the module works at.
        causal: whether no future sample is used. Not checked here; `kdse enhance` cross-fades chunks if False.
        lookahead_samples: largest m - n such that output n depends on input m.
        latency_samples: algorithmic latency.
        weights_key: where they lie, if several things in the file fit: what the error lists, e.g. "ema.model".
        minimum_samples: shorter audio is filled with zeros to this length (a network with reflecting padding fails
            on less than half a window).
        multiple_samples: audio is filled with zeros to a multiple of this length (a network that divides time by
            strides and brings it back).
    """

    def __init__(
        self,
        class_path: str,
        init_args: dict[str, Any] | None = None,
        weights: str | None = None,
        channel_axis: bool = False,
        sample_rate_hz: int = 16000,
        causal: bool = False,
        lookahead_samples: int = 0,
        latency_samples: int = 0,
        weights_key: str | None = None,
        minimum_samples: int = 1,
        multiple_samples: int = 1,
    ) -> None:
        super().__init__()
        require_at_least(1, minimum_samples=minimum_samples, multiple_samples=multiple_samples)
        if weights_key is not None and weights is None:
            raise UserError(f"Wrapped: weights_key={weights_key!r} says where weights lie in a file; give `weights`")
        self.sample_rate_hz, self.channel_axis = sample_rate_hz, channel_axis
        self.minimum_samples, self.multiple_samples = minimum_samples, multiple_samples
        self.causal, self.lookahead_samples, self.latency_samples = causal, lookahead_samples, latency_samples
        self._recipe, self._from_file = (class_path, dict(init_args or {})), weights is not None
        self.module = _construct(*self._recipe)
        if weights is not None:
            load_found(self.module, _read(weights), f"Wrapped: weights {weights}", weights_key)
        self._placed = torch.device("cpu")

    @property
    def brings_weights(self) -> bool:  # type: ignore[override]  # (here it takes another construction to know)
        """Whether a file gave the weights, or the class loads its own: they are then the same whatever the seed."""
        if self._from_file or any(p.is_meta for p in self.module.parameters()):
            return self._from_file  # (a model is also built under the meta device, which holds no values)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(OTHER_SEED)
            again = _construct(*self._recipe)
        pairs = zip(self.module.parameters(), again.parameters(), strict=True)
        return all(torch.equal(a.detach().cpu(), b.detach().cpu()) for a, b in pairs)

    def forward(self, noisy: Tensor) -> Estimate:
        if noisy.device != self._placed:
            self._place(noisy.device)
        # (many models drop the last partial frame, some pad it: the answer is cut or filled to the input's length)
        name, lengths = f"Wrapped {type(self.module).__name__}", (self.minimum_samples, self.multiple_samples)
        return Estimate(run_foreign(self.module, noisy, name, self.channel_axis, *lengths))

    @uncompiled
    def _place(self, device: torch.device) -> None:
        """Moves tensors that are plain attributes of modules, such as windows, which `Module.to` leaves behind."""
        for module in self.module.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    setattr(module, name, value.to(device))
        self._placed = device


def _construct(class_path: str, init_args: dict[str, Any]) -> nn.Module:
    module_name, _, name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"Wrapped: class_path {class_path!r} cannot be imported ({error})") from None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise UserError(f"Wrapped: class_path {class_path!r} is not a torch.nn.Module class")
    try:
        return cls(**init_args)
    except TypeError as error:
        raise UserError(f"Wrapped: {class_path} does not take these init_args: {error}") from None


def _read(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise, the user needs its name
        raise UserError(f"Wrapped: weights {path} cannot be read as data: {first_line(error)}") from None
