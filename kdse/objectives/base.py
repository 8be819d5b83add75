"""What every distillation objective is: a callback with a name, a weight, pairs of taps, heads and one scalar."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from kdse.distributed import gather_batch
from kdse.errors import UserError, require_at_least
from kdse.gradients import connected
from kdse.models.base import Estimate, Tap
from kdse.objectives.shapes import in_step
from kdse.schedule import SUPERVISED
from kdse.seeding import seeded

Taps = Mapping[str, Tap]
Shapes = Mapping[str, torch.Size]
#: Length of the clip that taps are probed with where the data does not state that of its crops (`segment_seconds`).
CLIP_SECONDS = 2.0
Activations = tuple[list[Tensor], list[Tensor]]


@dataclass
class Exchange:
    """One batch as an objective sees it.

    noisy, clean: audio ``[B, N]``; clean is None when the data has no labels.
    teacher, student: the two estimates; teacher is None only if no objective asked for it.
    teacher_taps, student_taps: activations by tap name, each ``[B, C, T, F]``, brought `in_step` where frame counts
        differ by one. The teacher's carry no gradient.
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

    def __post_init__(self) -> None:
        self.teacher_taps, self.student_taps = in_step(self.teacher_taps, self.student_taps)

    def nothing(self) -> Tensor:
        """Zero for a batch that an objective has no use for; student and heads stay connected, by shape alone."""
        return connected(self.student.waveform[:0].sum(), self.heads.parameters())

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
    """Base class of distillation objectives. Subclasses implement `loss`, those that train projectors `build_heads`.

    Args:
        weight: factor on the value; the schedule's weight multiplies it.
        pairs: which taps are compared: "all" (same-named taps, or by order when both models have equally many),
            "encoder", "bottleneck", "decoder" (the same, within the group), or a list of [teacher_tap, student_tap].
    """

    uses_taps: bool = True
    uses_clean: bool = False
    every_pair: bool = False  # "all" and the groups mean every student tap with every teacher tap, not one with one
    compares_items: bool = False  # the value depends on how the items of a batch relate to each other
    named_pairs: tuple[str, ...] = ("all", "encoder", "bottleneck", "decoder")

    def __init__(self, weight: float = 1.0, pairs: str | list[list[str]] = "all") -> None:
        super().__init__()
        require_at_least(0, weight=weight)
        if isinstance(pairs, str) and pairs not in self.named_pairs:
            choices = ", ".join(f'"{choice}"' for choice in self.named_pairs)
            raise UserError(f"pairs={pairs!r}: give {choices} or a list of [teacher, student] taps")
        self.weight = weight
        self.pairs = pairs
        self.bound_pairs: list[tuple[str, str]] = []
        self.name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    # --- binding to the two models ---

    def named(self, name: str) -> Objective:
        """This objective under the name that logs, checkpoints and the schedule know it by.

        Raises:
            ValueError: if no term of a run can have this name.
        """
        if not re.fullmatch(r"[\w-]+", str(name)):  # (it is part of flags and of the columns of logs)
            raise UserError(f"objectives: {str(name)!r} is no name for one; use letters, digits, _ and -")
        if name == SUPERVISED or str(name).isdigit() or hasattr(nn.ModuleDict, name):
            raise UserError(f"objectives.{name}: an objective cannot have this name; give it another")
        self.name = name
        return self

    def bind(self, teacher: Taps, student: Taps, probe: Callable[[], tuple[Shapes, Shapes]]) -> nn.ModuleDict:
        """Settles which taps are compared; returns the heads, initialised from a random stream of this name's own.

        Args:
            teacher, student: the taps of both models.
            probe: measures the shapes of both models' taps ``[B, C, T, F]``; called only if taps are compared.

        Raises:
            ValueError: if a tap is missing, or taps cannot be compared.
        """
        self.bound_pairs = self.resolve_pairs(teacher, student)
        if not self.uses_taps:
            return nn.ModuleDict()
        probed = [{n: torch.empty(s, device="meta") for n, s in shapes.items()} for shapes in probe()]
        shapes = [{n: x.shape for n, x in taps.items()} for taps in in_step(*probed)]
        with seeded(f"heads/{self.name}"):
            return self.build_heads(*shapes) or nn.ModuleDict()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # before optimizers are made and weights loaded
        bind = getattr(pl_module, "bind_objective", None)
        if bind is None:
            raise UserError(
                f"objectives.{self.name}: {type(pl_module).__name__} has no teacher; use `model.class_path: "
                "kdse.Distiller`, or leave out --objectives to train without distillation"
            )
        bind(self, getattr(getattr(trainer, "datamodule", None), "segment_seconds", CLIP_SECONDS))

    def resolve_pairs(self, teacher: Taps, student: Taps) -> list[tuple[str, str]]:
        """The (teacher tap, student tap) names that this objective compares.

        Raises:
            ValueError: when a named tap does not exist or the taps of the two models cannot be matched.
        """
        if self.pairs is None or not self.uses_taps:
            return []
        if isinstance(self.pairs, str):
            return self.group_pairs(self.pairs, teacher, student)
        return self.check_pairs(self.pairs, teacher, student)

    def group_pairs(self, group: str, teacher: Taps, student: Taps) -> list[tuple[str, str]]:
        """Pairs of all taps ("all") or those of a group."""
        names = [[name for name, tap in taps.items() if group in ("all", tap.group)] for taps in (teacher, student)]
        ours, theirs = names[1], names[0]
        where = f"objectives.{self.name}.pairs={group!r}"
        if not theirs or not ours:
            raise UserError(
                f"{where}: the {'student' if theirs else 'teacher'} declares no such taps; "
                "name pairs yourself (`kdse taps` lists a model's modules)"
            )
        if self.every_pair:
            return [(a, b) for b in ours for a in theirs]
        if set(theirs) == set(ours):
            return [(name, name) for name in theirs]
        if len(theirs) != len(ours):
            raise UserError(
                f"{where}: the teacher has {len(theirs)} taps {theirs} and the student {len(ours)} {ours}; "
                "name the pairs yourself"
            )
        return list(zip(theirs, ours, strict=True))

    def check_pairs(self, pairs: Sequence[Sequence[str]], teacher: Taps, student: Taps) -> list[tuple[str, str]]:
        """Pairs that the user listed, as tuples; both taps of each must exist."""
        for pair in pairs:
            if isinstance(pair, str) or len(pair) != 2:
                raise UserError(f"objectives.{self.name}.pairs: {pair!r} is not a [teacher_tap, student_tap] pair")
            for side, name, known in (("teacher", pair[0], teacher), ("student", pair[1], student)):
                if name not in known:
                    raise UserError(
                        f"objectives.{self.name}.pairs: the {side} has no tap {name!r}; it has {list(known)}"
                    )
        return [(str(a), str(b)) for a, b in pairs]

    def build_heads(self, teacher_shapes: Shapes, student_shapes: Shapes) -> nn.ModuleDict | None:
        """Trainable modules this objective needs, from probed tap shapes ``[B, C, T, F]``; None for head-free ones."""
        return None

    # --- the value ---

    def loss(self, exchange: Exchange) -> Tensor:
        """The raw value, one scalar that depends on the student (and heads) only through ``exchange``."""
        raise NotImplementedError

    def activations(self, exchange: Exchange) -> Activations:
        """Teacher's and student's activations ``[B, C, T, F]`` of the bound pairs, in their order."""
        teacher = [exchange.teacher_taps[t] for t, _ in self.bound_pairs]
        return teacher, [exchange.student_taps[s] for _, s in self.bound_pairs]


class OutputObjective(Objective):
    """Base of objectives that compare outputs; any black-box teacher will do. Subclasses implement `loss`."""

    uses_taps = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(pairs=[], **kwargs)

    def require_equal_shapes(self, teacher: Tensor, student: Tensor, what: str, fix: str) -> None:
        """Raises a ValueError that says which shapes differ and the fix."""
        if teacher.shape != student.shape:
            raise UserError(
                f"objectives.{self.name}: the teacher's {what} is {[*teacher.shape]} and the student's "
                f"{[*student.shape]}; {fix}"
            )


class Gathering(Objective):
    """Mixin of objectives that compare the items of a batch with each other.

    Args:
        gather: under DDP compare the items of the global batch, not each process's own.
    """

    compares_items = True

    def __init__(self, gather: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gather = gather

    def activations(self, exchange: Exchange) -> Activations:
        teacher, student = super().activations(exchange)
        return self.gathered(teacher), self.gathered(student)

    def gathered(self, activations: list[Tensor]) -> list[Tensor]:
        """Activations of all processes, if that is wanted: each process then computes the whole global loss."""
        return [gather_batch(x) for x in activations] if self.gather else activations
