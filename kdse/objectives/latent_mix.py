"""Latent feature augmentation: the student learns from mixtures of the teacher's latents."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdse.errors import require_one_of, require_positive
from kdse.objectives.base import Exchange, Shapes
from kdse.objectives.layerwise import Layerwise, pointwise_heads, project
from kdse.objectives.shapes import in_step, require_equal, resample
from kdse.objectives.vectors import frame_vectors
from kdse.seeding import derive_seed, run_seed


class LatentMix(Layerwise):
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
        pairs: see `Objective`. The latents by default.
    """

    uses_clean = True
    agree = "bctf"

    def __init__(
        self,
        student_mix: str = "latents",
        concentration: float = 1.0,
        head: str = "conv",
        match_axes: bool = False,
        distance: str = "l2",
        pairs: str | list[list[str]] = "bottleneck",
        **kwargs: Any,
    ) -> None:
        super().__init__(reduction="mean", pairs=pairs, **kwargs)
        require_one_of("student_mix", student_mix, "latents", "audio")
        require_one_of("head", head, "conv", "none")
        require_one_of("distance", distance, "l2", "l1", "cosine")
        require_positive(concentration=concentration)
        self.student_mix, self.concentration, self.head = student_mix, concentration, head
        self.match_axes, self.distance = match_axes, distance

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict | None:
        axes = ("" if self.head == "conv" else "c") + ("" if self.match_axes else "tf")
        for a, b in self.bound_pairs:
            require_equal(self.name, (a, b), teacher_shapes[a], student_shapes[b], axes)
        return None if self.head == "none" else pointwise_heads(self.bound_pairs, teacher_shapes, student_shapes)

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
        mix_latents = self.student_mix == "latents"
        second = other if mix_latents else share[:, None] * noisy + (1 - share)[:, None] * other
        teacher_taps, student_taps = in_step(exchange.run_teacher(other)[1], exchange.run_student(second)[1])
        first_t, first_s = self.activations(exchange)
        weights = share[:, None, None, None]
        teacher, student = [], []
        for (a, b), x, y in zip(self.bound_pairs, first_t, first_s, strict=True):
            teacher.append(weights * x[rows] + (1 - weights) * teacher_taps[a])
            latent = student_taps[b]
            student.append(weights * y[rows] + (1 - weights) * latent if mix_latents else latent)
        if self.head == "conv":
            student = project(exchange.heads, student)
        if self.match_axes:
            student = [resample(b, *a.shape[2:]) for a, b in zip(teacher, student, strict=True)]
        return self.compare(teacher, student)

    def layer(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self.distance == "cosine":
            return (1 - F.cosine_similarity(frame_vectors(teacher), frame_vectors(student), dim=-1)).mean()
        gap = student - teacher
        return gap.square().mean() if self.distance == "l2" else gap.abs().mean()

    def shares(self, items: int, step: int) -> Tensor:
        """lambda of every item ``[items]``: a pure function of the run's seed, this objective's name and the step."""
        generator = torch.Generator().manual_seed(derive_seed(run_seed(), "latent_mix", self.name, step))
        if self.concentration == 1:
            return torch.rand(items, generator=generator)
        from scipy.stats import beta  # slow to import, and rarely needed

        uniform = torch.rand(items, generator=generator, dtype=torch.float64).numpy()
        return torch.from_numpy(beta.ppf(uniform, self.concentration, self.concentration)).float()
