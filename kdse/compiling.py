"""`--model.compile`: which parts of a training step run through torch.compile, each with its reason, and how.

On a CPU: the teachers, students, losses and objectives that gained by it when measured (`TEACHER_TIME`, `STEP_TIME`).
On a GPU, where nobody ran it yet: all in these tables. Their values and gradients were compared with the eager ones,
of UNet and Dccrn with those in float64, from which both are as far. (Manner and Uformer are left out: they gained 3 to
9 % and took minutes to compile, and nobody compared them.)
What is not in them runs eager, as does all outside training. Training batches of kdse's data have one shape; the
first is compiled, and another (the last batch of somebody else's loader) runs eager. Compiled code is kept in the
cache of kdse, for other runs and for a resume.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdse.internals.torch import compiler_errors, cxx_compiler, has_forward_hooks, prepare_compiler
from kdse.machine.cache import cache_root
from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.layers import GroupedGru

log = logging.getLogger(__name__)

#: Time compiled / eager of a teacher's forward pass, on one core with PyTorch 2.14.
TEACHER_TIME = {"Cruse": 0.92, "Dccrn": 0.99, "UNet": 0.62}
#: The same of a student, a loss or an objective, forward and backward (1 also where that is less than 5 ms of a step of
#: 16 x 2 s). CorrelationCongruence and ProbabilisticTransfer are left out: compiled, they have other values.
STEP_TIME = {
    "Cruse": 1.15, "Dccrn": 0.90, "UNet": 0.61,
    "CompressedSpectral": 0.96, "MultiResolutionStft": 0.67, "PhaseSensitive": 1.0, "SiSdr": 1.0,
    "AttentionKl": 0.48, "AttentionTransfer": 0.36, "CosineAlignment": 1.0, "CrossLayerSimilarity": 0.62,
    "FlowOfSolution": 1.0, "FrameWeightedJeffreys": 1.04, "Hint": 0.53, "KnowledgeReview": 0.30,
    "RelationalAngle": 0.91, "RelationalDistance": 0.91, "SimilarityPreserving": 0.83,
}  # fmt: skip
#: What a part must come down to on a CPU to be compiled, which takes half a minute the first time: our choice.
PAYS = 0.95
#: The environment variable with the folder of compiled code.
FOLDER = "TORCHINDUCTOR_CACHE_DIR"
#: How the name of the temporary folder begins that the variable holds once anybody has imported the compiler.
TEMPORARY = "torchinductor_"
#: Of torch.compile; PyTorch's own default.
BACKEND = "inductor"
#: Layers that stay eager inside a compiled network: torch.compile has nothing for recurrences.
RECURRENT = (GroupedGru, nn.RNNBase)


class Compiled:
    """A function of tensors, compiled for the shape of its first call; it says so once where it runs eager instead.

    Args:
        function: takes tensors, or tuples and lists of them.
        what: the part's name in messages.
    """

    def __init__(self, function: Callable[..., Any], what: str) -> None:
        self._function, self._what = function, what
        self._compiled: Callable[..., Any] | None = torch.compile(function, dynamic=False, backend=BACKEND)
        self._shape: torch.Size | None = None
        self._told = False

    def __call__(self, *inputs: Any) -> Any:
        if self._compiled is None or torch.is_inference_mode_enabled():
            return self._function(*inputs)
        shape = _shape(inputs)
        self._shape = self._shape or shape
        if shape != self._shape:
            if not self._told:
                log.info("compile: %s: compiled for batches of shape %s; others, such as %s, run eager", self._what,
                         [*self._shape], [*shape])  # fmt: skip
            self._told = True
            return self._function(*inputs)
        try:
            return self._compiled(*inputs)
        except compiler_errors() as error:
            log.warning("compile: %s runs eager: %s", self._what, " ".join(str(error).split())[:300])
            self._compiled = None
            return self._function(*inputs)


def _shape(inputs: Any) -> torch.Size:
    while not isinstance(inputs, Tensor):
        inputs = inputs[0]
    return inputs.shape


class CompiledNetwork:
    """A network's pass, compiled: noisy audio ``[B, N]`` to its `Estimate` and the raw outputs of its tapped modules.

    For the time of a call only, modules have another ``forward``: hooks would be traced once and never looked at
    again. So copies, checkpoints and evaluations of the network hold nothing of this.
    """

    def __init__(self, network: SpeechModel, taps: Mapping[str, Tap], what: str) -> None:
        self._network = network
        self._seen: dict[str, Any] = {}
        self._channels_last = any(p.dim() == 4 and not p.is_contiguous() for p in network.parameters())
        self._forwards: dict[nn.Module, Callable[..., Any]] = {
            part: torch.compiler.disable(part.forward) for part in network.modules() if isinstance(part, RECURRENT)
        }
        for name, tap in taps.items():
            part = network.get_submodule(tap.path)
            self._forwards[part] = self._noting(name, self._forwards.get(part, part.forward))
        self._run = Compiled(self._pass, what)

    def _noting(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        seen, channels_last = self._seen, self._channels_last

        def noting(*inputs: Any) -> Any:
            output = forward(*inputs)
            if channels_last and isinstance(output, Tensor) and output.dim() == 4:  # (as eager; Grams of bins want it)
                output = output.contiguous(memory_format=torch.channels_last)
            seen[name] = output
            return output

        return noting

    def _pass(self, noisy: Tensor) -> tuple[Estimate, dict[str, Any]]:
        self._seen.clear()
        return self._network(noisy), dict(self._seen)

    def __call__(self, noisy: Tensor) -> tuple[Estimate, dict[str, Any]]:
        try:
            for part, forward in self._forwards.items():
                part.__dict__["forward"] = forward
            return self._run(noisy)
        finally:
            for part in self._forwards:
                part.__dict__.pop("forward", None)
            self._seen.clear()


def no_compiler(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device; None if it can."""
    if device.type not in ("cpu", "cuda"):
        return f"kdse was never compiled for {device.type}"
    if cxx_compiler() is None:
        return "no C++ compiler was found; install g++, or name one in the environment variable CXX"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is missing, which makes kernels for a GPU"
    return None


def prepare(keep_graphs: bool) -> None:
    """Sets torch.compile up for this process: see `kdse.internals.torch.prepare_compiler` for the argument."""
    if os.path.basename(os.environ.get(FOLDER, TEMPORARY)).startswith(TEMPORARY):
        os.environ[FOLDER] = str(cache_root() / "compiled")
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
    prepare_compiler(keep_graphs)


def why_eager(part: object, device: torch.device, trains: bool = True) -> str | None:
    """Why a network, loss or objective is not compiled, None if it is; False for ``trains`` asks for a teacher."""
    name = type(part).__name__
    times = STEP_TIME if trains else TEACHER_TIME
    if name not in times or not type(part).__module__.startswith("kdse."):
        return f"{name} was never measured compiled"
    return f"{name} is as fast eager on a CPU" if device.type == "cpu" and times[name] > PAYS else None


def why_eager_network(network: nn.Module, taps: Mapping[str, Tap], device: torch.device, trains: bool) -> str | None:
    """`why_eager` of a network with these taps."""
    if any(has_forward_hooks(part) for part in network.modules()):
        return "it has forward hooks"
    inside = [path for path, part in network.named_modules() if isinstance(part, RECURRENT)]
    if any(tap.path.startswith(f"{path}.") for tap in taps.values() for path in inside):
        return "a tap lies inside a recurrent layer"
    return why_eager(network, device, trains)


def announce(parts: Mapping[str, str | None]) -> None:
    """Says in one line what is compiled and what runs eager, each with its reason (None: compiled)."""
    compiled = ", ".join(name for name, reason in parts.items() if reason is None)
    eager = "; ".join(f"{name} runs eager: {reason}" for name, reason in parts.items() if reason is not None)
    log.info("compile: %s", "; ".join(filter(None, (compiled and f"{compiled} compiled", eager))))
