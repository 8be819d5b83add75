"""Number formats: what a run may compute in, and what stays in float32 whatever it says."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from kdse.errors import UserError

#: Lightning's names of the formats that train. In the mixed ones networks run in 16 bits; STFTs, losses and objectives
#: do not.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


def exact(x: Tensor) -> Tensor:
    """Float32, or float64 if it is already: what comparisons are computed in."""
    return x if x.dtype == torch.float64 else x.float()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Runs the body without autocast, on devices that have it."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def check_precision(precision: str) -> None:
    """Refuses formats that would store the network, its STFT window and the optimizer's moments in 16 or 8 bits."""
    if str(precision) not in PRECISIONS:
        raise UserError(
            f"--trainer.precision={precision}: parameters and STFTs stay in float32 or float64 here; use one of "
            f"{', '.join(PRECISIONS)}"
        )
