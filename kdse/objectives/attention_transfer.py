"""Attention transfer: where a network is active, whatever its channels are.

Zagoruyko & Komodakis, "Paying more attention to attention", ICLR 2017, equation 2: activation-based
attention (from memory).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdse.errors import UserError, require_one_of
from kdse.objectives.layerwise import Layerwise
from kdse.objectives.shapes import resample
from kdse.objectives.vectors import SILENCE


class AttentionTransfer(Layerwise):
    """Difference of normalised attention maps; needs no heads, since channels are summed away.

    The map of an item is ``Q[t, f] = sum_c |A[c, t, f]|^p``; compared is the whole map as one vector,
    ``vec(Q) / || vec(Q) ||_2`` with T x F entries. Per pair of taps:

    - ``form="norm"``, the paper's equation: ``1/2 || q_T - q_S ||_2`` (weight = the paper's beta), mean over items.
      It lies in [0, 0.71] at any T and F.
    - ``form="squared"``, the authors' code: mean of ``(q_T - q_S)^2`` over bins and items. It shrinks as 1 / (T F).

    Normalisation takes the level out: a student that is 20 dB quieter has the same map. A map of silence (no
    activation above 1e-5, our choice) fades to zero rather than being normalised; value and gradient are finite.

    Args:
        power: p, from 1 to 4 (the paper tries 1, 2 and 4; its experiments use 2).
        form: "norm" or "squared", see above.
        resample: bring the student's map to the teacher's frames and frequencies where they differ (the paper: maps
            may be interpolated); otherwise a difference is an error.
    """

    def __init__(self, power: float = 2.0, form: str = "norm", resample: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 1 <= power <= 4:
            raise UserError(f"power={power} must lie in [1, 4]: below 1 the gradient at zero is infinite")
        require_one_of("form", form, "norm", "squared")
        self.power, self.form, self.resample = power, form, resample
        self.agree = "b" if resample else "btf"

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        size = teacher.shape[2:]
        gap = self._map(teacher, size) - self._map(student, size)
        if self.form == "squared":
            return gap.square().mean()
        return 0.5 * gap.norm(dim=1).mean()  # its gradient at zero is zero

    def _map(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """``[B, C, T, F]`` to normalised maps ``[B, T F]``."""
        attention = resample(x.abs().pow(self.power).sum(1, keepdim=True), *size).flatten(1)
        # The result does not depend on the peak, so it needs no gradient; dividing by it first keeps the squares in
        # the norm away from float32's smallest number.
        peak = attention.detach().amax(1, keepdim=True)
        attention = attention / peak.clamp_min(SILENCE**self.power)
        return attention / attention.norm(dim=1, keepdim=True).clamp_min(0.5)  # 1 or more unless silent
