"""Which samples a model is given: finite ones, of a size that leaves it working."""

from __future__ import annotations

import torch
from torch import Tensor

#: Largest absolute sample, 120 dB above full scale (which is 1). Our choice: 16- and 24-bit integers that were not
#: scaled down pass. Far above, from 1e18 on, squares overflow float32; and already a lone sample of 1e10 would weigh
#: so much in a model's running statistics that hours of speech after it would be treated as silence.
LARGEST = 1e6


def check_samples(samples: Tensor, position: int, rate_hz: int) -> None:
    """Refuses what would spoil a model's state.

    Args:
        samples: ``[C, n]``.
        position: of their first sample in the signal.
        rate_hz: of the signal, for the message.

    Raises:
        ValueError: naming the first sample that is NaN, infinite or larger than `LARGEST`.
    """
    for fault, bad in (
        ("NaN or infinite samples", ~torch.isfinite(samples)),
        (f"samples larger than {LARGEST:g}, where full scale is 1", samples.abs() > LARGEST),
    ):
        if bad.any():
            first = position + int(bad.any(dim=0).nonzero()[0])
            raise ValueError(f"holds {fault} (the first is sample {first}, at {first / rate_hz:.2f} s)")
