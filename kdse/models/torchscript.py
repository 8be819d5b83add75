"""`TorchScript`: a network that comes as one file, with its program and its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kdse.errors import UserError, first_line, require_at_least
from kdse.internals.lean_imports import uncompiled
from kdse.models.base import Estimate, SpeechModel
from kdse.models.foreign import file_identity, run_foreign


class TorchScript(SpeechModel):
    """A file of torch.jit.save (scripted or traced) from noisy wave to enhanced wave.

    Such a file is a program of torch's own interpreter. It cannot import code, but it may call any operator of torch,
    among them those that read and write files: load only files you trust. A checkpoint that names one is refused unless
    the reader passes --trust-code.

    The interpreter calls no hooks, so it has no taps: use objectives on the output, or `kdse.models.Wrapped` with the
    network's Python class. As a teacher it works where the student does. A program without parameters, such as a frozen
    one (torch.jit.freeze optimises for the device that it was made on), stays on the CPU and its answers are copied:
    unfrozen it is faster on a GPU. A traced one makes its own tensors where it was traced (trace on the device that it
    is to run on, or script it).

    Args:
        path: the file.
        sample_rate_hz: rate the network works at.
        channel_axis: the network wants ``[B, 1, N]`` instead of ``[B, N]``.
        minimum_samples: shorter audio is filled with zeros to this length (a network with reflecting padding fails
            on less than half a window).
        causal: whether no future sample is used. Not checked here; `kdse enhance` cross-fades chunks if False.
        lookahead_samples: largest m - n such that output n depends on input m.
        latency_samples: algorithmic latency.
        multiple_samples: audio is filled with zeros to a multiple of this length (a network that divides time by
            strides and brings it back).
    """

    brings_weights = True
    file_sha256: Tensor

    def __init__(
        self,
        path: str,
        sample_rate_hz: int = 16000,
        channel_axis: bool = False,
        minimum_samples: int = 1,
        causal: bool = False,
        lookahead_samples: int = 0,
        latency_samples: int = 0,
        multiple_samples: int = 1,
    ) -> None:
        super().__init__()
        require_at_least(1, minimum_samples=minimum_samples, multiple_samples=multiple_samples)
        self.sample_rate_hz, self.channel_axis = sample_rate_hz, channel_axis
        self.minimum_samples, self.multiple_samples = minimum_samples, multiple_samples
        self.causal, self.lookahead_samples, self.latency_samples = causal, lookahead_samples, latency_samples
        if not Path(path).is_file():
            raise UserError(f"TorchScript: path {path}: no such file")
        try:
            self.module = torch.jit.load(path, map_location="cpu").eval()  # a frozen one has no mode till told
        except Exception as error:  # whatever a damaged or foreign file makes torch raise, the user needs its name
            raise UserError(
                f"TorchScript: path {path} is not a file of torch.jit.save ({first_line(error)}); for a state_dict "
                "use kdse.models.Wrapped with the network's class"
            ) from None
        self._path, self._placed = path, torch.device("cpu")
        # a frozen program has its weights as constants: the file's digest stands for them in the fingerprint
        self.register_buffer("file_sha256", file_identity(Path(path)))

    def forward(self, noisy: Tensor) -> Estimate:
        parameters = list(self.module.parameters())
        if parameters and noisy.device != self._placed and not any(p.requires_grad for p in parameters):
            self._place(noisy.device)
        heard = noisy if parameters else noisy.cpu()
        lengths = self.minimum_samples, self.multiple_samples
        return Estimate(run_foreign(self.module, heard, "TorchScript", self.channel_axis, *lengths).to(noisy.device))

    @uncompiled
    def _place(self, device: torch.device) -> None:
        """Loads the program onto a device: `Module.to` leaves its tensors behind that are no parameters or buffers.

        Only a network that is not trained: an optimizer would go on with the old parameters.
        """
        moved = torch.jit.load(self._path, map_location=device).eval()
        moved.load_state_dict(self.module.state_dict())
        self.module = moved
        self.requires_grad_(False)
        self._placed = device
