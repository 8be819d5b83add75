"""`Mix`: some of the noisy input stays in the result, aligned with it in time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from torch import Tensor

from kdse.errors import UserError


class Mix:
    """``(1 - share) * enhanced + share * noisy``, sample by sample, of signals that arrive in pieces.

    A part of the input that the model multiplies by a gain of 0 to 1 is multiplied by at least ``share`` in the
    result: nothing is attenuated by more than ``-20 log10(share)`` dB (20 dB for 0.1; see `limit_db`). Noisy samples
    wait here until the enhanced ones come out, so memory is that of the delay between them.

    Args:
        share: 0 (the enhanced signal, bit by bit) to 1 (the noisy one).

    Raises:
        ValueError: if ``share`` is outside 0 to 1.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise UserError(f"--mix {share:g}: must lie between 0 (enhanced only) and 1 (noisy only)")
        self.share = share
        self._waiting: deque[Tensor] = deque()

    @property
    def limit_db(self) -> float:
        """The strongest attenuation left possible, in dB; infinite for a share of 0."""
        return -20 * math.log10(self.share) if self.share else math.inf

    @property
    def waiting_samples(self) -> int:
        """Noisy samples in the buffer."""
        return sum(piece.shape[1] for piece in self._waiting)

    def hear(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """Passes noisy pieces ``[C, n]`` on and remembers them."""
        for piece in pieces:
            if self.share:
                self._waiting.append(piece)
            yield piece

    def blend(self, enhanced: Tensor) -> Tensor:
        """Enhanced samples ``[C, m]``, of which no more come out than noisy ones went in, to mixed ones."""
        if not self.share or not enhanced.shape[1]:
            return enhanced
        mixed, done = (1 - self.share) * enhanced, 0
        while done < enhanced.shape[1]:
            noisy = self._waiting.popleft()
            taken = min(noisy.shape[1], enhanced.shape[1] - done)
            mixed[:, done : done + taken] += self.share * noisy[:, :taken]
            if taken < noisy.shape[1]:
                self._waiting.appendleft(noisy[:, taken:])
            done += taken
        return mixed
