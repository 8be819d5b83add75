"""Running a network that kdse knows nothing about: what goes in, what comes out, which file it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdse.audio.alignment import fit_length
from kdse.errors import UserError


def run_foreign(
    network: Callable[[Tensor], Any],
    noisy: Tensor,
    name: str,
    channel_axis: bool = False,
    minimum_samples: int = 1,
    multiple_samples: int = 1,
) -> Tensor:
    """Enhances ``[B, N]`` with any wave-to-wave callable; the answer has the input's length.

    Args:
        network: takes ``[B, N]`` (``[B, 1, N]`` with ``channel_axis``) and returns one of these, or a tuple that
            starts with it.
        noisy: audio ``[B, N]``.
        name: who asks, for messages.
        minimum_samples: shorter audio is filled with zeros to this length, and the answer cut.
        multiple_samples: audio is filled with zeros to a multiple of this, and the answer cut.

    Raises:
        ValueError: if the answer is not one wave per item.
    """
    samples = max(noisy.shape[1], minimum_samples)
    heard = fit_length(noisy, -(-samples // multiple_samples) * multiple_samples)
    try:
        out = network(heard[:, None] if channel_axis else heard)
    except (RuntimeError, ValueError) as error:  # its own, with its traceback
        error.add_note(
            f"{name}: the network was given {list(heard.shape)}; if it cannot take that length, state "
            "`minimum_samples` (its shortest input) or `multiple_samples` (of which lengths must be multiples)"
        )
        raise
    wave = out[0] if isinstance(out, (tuple, list)) and len(out) else out
    if not isinstance(wave, Tensor):
        raise UserError(f"{name}: the network returned a {type(wave).__name__}, not a tensor")
    if wave.dim() == 3 and wave.shape[1] == 1:
        wave = wave[:, 0]
    if wave.dim() != 2 or wave.shape[0] != noisy.shape[0]:
        raise UserError(
            f"{name}: the network turned {list(heard.shape)} into {list(wave.shape)}; it must return one wave per item"
        )
    return fit_length(wave, noisy.shape[1])


def file_identity(*paths: Path) -> Tensor:
    """SHA-256 over the files' bytes as a uint8 tensor ``[32]``; files that do not exist are left out.

    A buffer of it makes `kdse.models.checkpoint.fingerprint` tell two files apart whose weights are no parameters.
    """
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest_tensor(digest.digest())


def digest_tensor(digest: bytes) -> Tensor:
    """Bytes as a uint8 tensor on the CPU."""
    with torch.device("cpu"):  # a model is also built under the meta device, which holds no values
        return torch.tensor(list(digest), dtype=torch.uint8)
