"""Latent feature augmentation: the student learns from mixtures of the teacher's latents."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.objectives.base import Exchange, Objective
from kdse.objectives.shapes import require_equal, resample
from kdse.precision import exact
from kdse.seeding import derive_seed, run_seed


class LatentMix(Objective):
    """After "KD for Tiny SE with Latent Feature Augmentation" (Gholami et al., Interspeech 2024): our reading.

    Read: the abstract, and a third party's note that latents of two mixtures with the *same clean speech and different
    noise* are mixed. The equations were not seen; all below is our choice. Every labelled item gets a second view
    ``x2 = clean + n2``, its own speech with the noise of the item before it, scaled to the power of its own noise
    (so that x2 has the item's SNR), and a share lambda:

        z = lambda z(x1) + (1 - lambda) z(x2)    for the teacher,
        L = mean over pairs of d(z_T, head(z_S))

    where z_S is mixed like the teacher's ("latents") or is the student's latent of the mixed noisy audio ("audio").
    Costs a second forward of both networks. Items without clean speech are left out.

    Args:
        student_mix: "latents" or "audio", see above.
        concentration: a of lambda ~ Beta(a, a); 1 is uniform.
        head: "conv" puts a trainable 1x1 convolution from the student's channels to the teacher's on the student
            (dropped on export); "none" compares latents as they are.
        match_axes: resample the student's frames and frequencies to the teacher's where they differ; otherwise a
            difference is an error.
        distance: "l2" (squared), "l1" or "cosine" (of every frame's vector).
        pairs: see `Objective`.
        weight: factor on the value.
    """

    uses_clean = True

    def __init__(
        self,
        student_mix: str = "latents",
        concentration: float = 1.0,
        head: str = "conv",
        match_axes: bool = False,
        distance: str = "l2",
        pairs: str | list[list[str]] = "bottleneck",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight, pairs)
        for name, value, known in (
            ("student_mix", student_mix, ("latents", "audio")),
            ("head", head, ("conv", "none")),
            ("distance", distance, ("l2", "l1", "cosine")),
        ):
            if value not in known:
                raise UserError(f"{name}={value!r}: use one of {known}")
        if not concentration > 0:
            raise UserError(f"concentration={concentration} must be positive")
        self.student_mix, self.concentration, self.head = student_mix, concentration, head
        self.match_axes, self.distance = match_axes, distance

    def build_heads(
        self, teacher_shapes: Mapping[str, torch.Size], student_shapes: Mapping[str, torch.Size]
    ) -> nn.ModuleDict | None:
        for a, b in self.bound_pairs:
            axes = ("" if self.head == "conv" else "c") + ("" if self.match_axes else "tf")
            require_equal(self.name, (a, b), teacher_shapes[a], student_shapes[b], axes)
        if self.head == "none":
            return None
        return nn.ModuleDict(
            {
                str(i): nn.Conv2d(student_shapes[b][1], teacher_shapes[a][1], 1)
                for i, (a, b) in enumerate(self.bound_pairs)
            }
        )

    def loss(self, exchange: Exchange) -> Tensor:
        rows = exchange.labelled_rows(self.name)
        if len(rows) < 2:
            return exchange.nothing()  # the second view needs another item's noise
        assert exchange.clean is not None and exchange.run_teacher is not None and exchange.run_student is not None
        noisy, clean = exchange.noisy[rows], exchange.clean[rows]
        noise = noisy - clean
        level = noise.square().mean(1, keepdim=True).sqrt()
        borrowed = noise.roll(1, dims=0)
        other = clean + borrowed * (level / level.roll(1, dims=0).clamp_min(1e-6)).clamp_max(100.0)
        share = self.shares(len(rows), exchange.step).to(noisy)
        teacher_taps = exchange.run_teacher(other)[1]
        second = other if self.student_mix == "latents" else share[:, None] * noisy + (1 - share)[:, None] * other
        student_taps = exchange.run_student(second)[1]
        teacher, student = [], []
        weights = share[:, None, None, None]
        for index, (a, b) in enumerate(self.bound_pairs):
            teacher.append(weights * exchange.teacher_taps[a][rows] + (1 - weights) * teacher_taps[a])
            latent = student_taps[b]
            if self.student_mix == "latents":
                latent = weights * exchange.student_taps[b][rows] + (1 - weights) * latent
            if self.head == "conv":
                with torch.autocast(latent.device.type, enabled=False):
                    latent = exchange.heads[str(index)](exact(latent))
            teacher_latent = teacher[-1]
            student.append(resample(latent, *teacher_latent.shape[2:]) if self.match_axes else latent)
        return self.compare(teacher, student)

    def compare(self, teacher: list[Tensor], student: list[Tensor]) -> Tensor:
        """Mean distance of mixed latents ``[B, C, T, F]``, averaged over pairs."""
        names = self.bound_pairs or [("teacher", "student")] * len(teacher)
        values = []
        for pair, a, b in zip(names, teacher, student, strict=True):
            require_equal(self.name, pair, a.shape, b.shape, "bctf")
            a, b = exact(a), exact(b)
            if self.distance == "cosine":
                a, b = a.transpose(1, 2).flatten(2), b.transpose(1, 2).flatten(2)
                values.append((1 - F.cosine_similarity(a, b, dim=-1)).mean())
            else:
                values.append((b - a).square().mean() if self.distance == "l2" else (b - a).abs().mean())
        return torch.stack(values).mean()

    def shares(self, items: int, step: int) -> Tensor:
        """lambda of every item ``[items]``: a pure function of the run's seed, this objective's name and the step."""
        generator = torch.Generator().manual_seed(derive_seed(run_seed(), "latent_mix", self.name, step))
        if self.concentration == 1:
            return torch.rand(items, generator=generator)
        from scipy.stats import beta  # slow to import, and rarely needed

        uniform = torch.rand(items, generator=generator, dtype=torch.float64).numpy()
        return torch.from_numpy(beta.ppf(uniform, self.concentration, self.concentration)).float()
