"""`Wrapped`: any PyTorch module from waveform to waveform as a teacher or a student."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from kdse.errors import UserError, first_line, shortened
from kdse.models.base import Estimate, SpeechModel
from kdse.models.foreign import run_foreign


class Wrapped(SpeechModel):
    """Adapts a module that kdse knows nothing about: noisy wave in, enhanced wave (or a tuple that starts with it) out.

    The module declares no taps, so name the ones you want in the distiller (``--model.teacher_taps``); `kdse taps`
    lists its modules. A checkpoint of a Wrapped model imports the module's code when it is loaded and is therefore
    refused unless the reader passes --trust-code.

    Args:
        class_path: dotted path of the module's class, e.g. "my_package.MyDenoiser".
        init_args: its constructor arguments.
        weights: file with the module's state_dict, read as data only; None keeps the initial weights.
        channel_axis: the module wants and returns ``[B, 1, N]`` instead of ``[B, N]``.
        sample_rate_hz: rate the module works at.
        causal: whether no future sample is used. Not checked here; `kdse enhance` cross-fades chunks if False.
        lookahead_samples: largest m - n such that output n depends on input m.
        latency_samples: algorithmic latency.
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
    ) -> None:
        super().__init__()
        self.sample_rate_hz, self.channel_axis = sample_rate_hz, channel_axis
        self.causal, self.lookahead_samples, self.latency_samples = causal, lookahead_samples, latency_samples
        self.module = _construct(class_path, dict(init_args or {}))
        self.brings_weights = weights is not None
        if weights is not None:
            _load(self.module, weights)

    def forward(self, noisy: Tensor) -> Estimate:
        # (many models drop the last partial frame, some pad it: the answer is cut or filled to the input's length)
        return Estimate(run_foreign(self.module, noisy, f"Wrapped {type(self.module).__name__}", self.channel_axis))


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


def _load(module: nn.Module, path: str) -> None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise, the user needs its name
        raise UserError(f"Wrapped: weights {path} cannot be read as data: {first_line(error)}") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"Wrapped: weights {path} do not fit {type(module).__name__}: {shortened(error)}") from None
