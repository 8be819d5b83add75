"""What every distillation objective is: a callback with a weight, pairs of taps and one scalar."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import lightning as L
import torch
from torch import Tensor, nn

from kdse.errors import UserError
from kdse.models.base import Estimate, Tap


@dataclass
class Exchange:
    """One batch as an objective sees it.

    noisy, clean: audio ``[B, N]``; clean is None when the data has no labels.
    teacher, student: the two estimates; teacher is None only if no objective asked for it.
    teacher_taps, student_taps: activations by tap name, each ``[B, C, T, F]``. The teacher's carry no gradient.
    heads: the trainable modules that this objective asked for (an empty ModuleDict if none).
    step: optimizer steps taken so far.
    labelled: which items have clean speech, boolean ``[B]``; None means all that ``clean`` holds. The rows of the
        others are zeros in ``clean``.
    run_teacher, run_student: run a network on other noisy audio ``[B, N]`` and return its estimate and the same taps.
    """

    noisy: Tensor
    student: Estimate
    clean: Tensor | None = None
    teacher: Estimate | None = None
    teacher_taps: Mapping[str, Tensor] = field(default_factory=dict)
    student_taps: Mapping[str, Tensor] = field(default_factory=dict)
    heads: nn.ModuleDict = field(default_factory=nn.ModuleDict)
    step: int = 0
    labelled: Tensor | None = None
    run_teacher: Callable[[Tensor], tuple[Estimate, Mapping[str, Tensor]]] | None = None
    run_student: Callable[[Tensor], tuple[Estimate, Mapping[str, Tensor]]] | None = None

    def nothing(self) -> Tensor:
        """Zero for a batch that an objective has no use for; student and heads stay connected, by shape alone."""
        total = self.student.waveform[:0].sum()
        for parameter in self.heads.parameters():
            total = total + parameter.reshape(-1)[:0].sum()
        return total

    def labelled_rows(self, name: str) -> Tensor:
        """Indices of the items that have clean speech ``[L]``, for the objective ``name`` that needs it.

        Raises:
            ValueError: if the data has none at all.
        """
        if self.clean is None:
            raise UserError(
                f"objectives.{name}: needs clean speech and this data has none; give labelled data or leave it out"
            )
        if self.labelled is None:
            return torch.arange(len(self.noisy), device=self.noisy.device)
        return self.labelled.nonzero()[:, 0]


class Objective(L.Callback):
    """Base class of distillation objectives.

    Args:
        weight: factor on the raw value; the schedule's weight multiplies it.
        pairs: which taps are compared: "all" (same-named taps, or by order when both models have equally many),
            "encoder", "bottleneck", "decoder" (the same, within the group), or a list of
            ``[teacher_tap, student_tap]`` names. None for objectives that use outputs only.

    Subclasses implement `loss`; those that train projectors also `build_heads`.
    """

    uses_taps: bool = True
    uses_clean: bool = False
    every_pair: bool = False  # "all" and the groups mean every student tap with every teacher tap, not one with one

    def __init__(self, weight: float = 1.0, pairs: str | list[list[str]] | None = "all") -> None:
        super().__init__()
        if not weight >= 0:
            raise UserError(f"weight={weight}: an objective's weight must be zero or more")
        if isinstance(pairs, str) and pairs not in ("all", "encoder", "bottleneck", "decoder"):
            raise UserError(
                f'pairs={pairs!r}: give "all", "encoder", "bottleneck", "decoder" or a list of [teacher, student] taps'
            )
        self.weight = weight
        self.pairs = pairs
        self.bound_pairs: list[tuple[str, str]] = []  # set by the Distiller
        self.name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def resolve_pairs(self, teacher: Mapping[str, Tap], student: Mapping[str, Tap]) -> list[tuple[str, str]]:
        """The (teacher tap, student tap) names that this objective compares.

        Raises:
            ValueError: when a named tap does not exist or the taps of the two models cannot be matched.
        """
        if self.pairs is None or not self.uses_taps:
            return []
        if not isinstance(self.pairs, str):
            return self._named_pairs(self.pairs, teacher, student)
        group = None if self.pairs == "all" else self.pairs
        teacher_names = [name for name, tap in teacher.items() if group is None or tap.group == group]
        student_names = [name for name, tap in student.items() if group is None or tap.group == group]
        if not teacher_names or not student_names:
            side = "teacher" if not teacher_names else "student"
            raise UserError(
                f"objectives.{self.name}.pairs={self.pairs!r}: the {side} declares no such taps; "
                "name pairs yourself (`kdse taps` lists a model's modules)"
            )
        if self.every_pair:
            return [(a, b) for b in student_names for a in teacher_names]
        if set(teacher_names) == set(student_names):
            return [(name, name) for name in teacher_names]
        if len(teacher_names) != len(student_names):
            raise UserError(
                f"objectives.{self.name}.pairs={self.pairs!r}: the teacher has {len(teacher_names)} taps "
                f"{teacher_names} and the student {len(student_names)} {student_names}; name the pairs yourself"
            )
        return list(zip(teacher_names, student_names, strict=True))

    def _named_pairs(
        self, pairs: Sequence[Sequence[str]], teacher: Mapping[str, Tap], student: Mapping[str, Tap]
    ) -> list[tuple[str, str]]:
        for pair in pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise UserError(f"objectives.{self.name}.pairs: {pair!r} is not a [teacher_tap, student_tap] pair")
        resolved = [(str(a), str(b)) for a, b in pairs]
        for index, (side, known) in enumerate((("teacher", teacher), ("student", student))):
            for pair in resolved:
                if pair[index] not in known:
                    raise UserError(
                        f"objectives.{self.name}.pairs: the {side} has no tap {pair[index]!r}; it has {list(known)}"
                    )
        return resolved

    def build_heads(
        self, teacher_shapes: Mapping[str, torch.Size], student_shapes: Mapping[str, torch.Size]
    ) -> nn.ModuleDict | None:
        """Trainable modules this objective needs, from probed tap shapes ``[B, C, T, F]``; None for head-free ones."""
        return None

    def loss(self, exchange: Exchange) -> Tensor:
        """The raw value, one scalar that depends on the student (and heads) only through ``exchange``."""
        raise NotImplementedError

    # --- Lightning: bind to the distiller before optimizers are made and weights loaded ---

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        bind = getattr(pl_module, "bind_objective", None)
        if bind is None:
            raise UserError(
                f"objectives.{self.name}: {type(pl_module).__name__} has no teacher; use `model.class_path: "
                "kdse.Distiller`, or leave out --objectives to train without distillation"
            )
        bind(self)
