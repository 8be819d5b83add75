"""`Distiller`: a frozen teacher, a trainable student, and the loop that joins them.

One batch goes through in one direction: both networks, their taps, the objectives, the schedule's weights, one total.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from kdse.compiling import Compiled, CompiledNetwork, prepare, why_eager, why_eager_network
from kdse.data.batch import Batch
from kdse.enhancer import Enhancer, has_labels
from kdse.errors import UserError
from kdse.gradients import GradientBalance, connected, window_factor
from kdse.internals.torch import FollowedModule
from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.budget import compress, count_parameters
from kdse.models.build import ModelOrFactory
from kdse.models.checkpoint import fingerprint
from kdse.models.probing import restored
from kdse.models.recorded import Recorded
from kdse.models.teachers import Teachers
from kdse.objectives.base import CLIP_SECONDS, Exchange, Objective
from kdse.pretrained.teachers import TeacherName
from kdse.schedule import EVERY_OBJECTIVE, SUPERVISED, Phase, Schedule
from kdse.taps import probe, record, resolve_taps
from kdse.teacher import Teacher, load_teacher

log = logging.getLogger(__name__)


class Distiller(FollowedModule, Enhancer):
    """Trains a student under a frozen teacher.

    Objectives and the schedule are callbacks of the Trainer and join it in their `setup`. Without a schedule every
    term has weight 1.

    Args:
        teacher: the teacher network, or the name of a public denoiser ("ul-unas"; `kdse teachers` lists them); None
            rebuilds it from `teacher_checkpoint`.
        teacher_checkpoint: checkpoint with the teacher's weights: a file, or the name of a model in the box
            ("cruse-62k"). None keeps the weights `teacher` came with.
        student: the student network. Give this or `compression`.
        compression: build the student from the teacher's own family with 1/compression of its parameters.
        teacher_taps: taps of the teacher by name, if not its own: ``{name: {path, layout, sizes, group}}``.
        student_taps: the same for the student.
        teacher_autocast: run the teacher in this lower precision, "bfloat16" or "float16"; None runs it as it is.
        trust_code: allow `teacher_checkpoint` to name classes that kdse does not ship.
        balance_gradients: bring the gradient norms of all terms (with respect to the student) to that of the
            supervised loss, so that weights are ratios of norms; see `kdse.gradients`.
        balance_every: optimizer steps between its measurements; each costs one backward pass a term.
    """

    def __init__(
        self,
        teacher: TeacherName | ModelOrFactory | None = None,
        teacher_checkpoint: str | None = None,
        student: ModelOrFactory | None = None,
        compression: float | None = None,
        teacher_taps: dict[str, Any] | None = None,
        student_taps: dict[str, Any] | None = None,
        teacher_autocast: str | None = None,
        trust_code: bool = False,
        balance_gradients: bool = False,
        balance_every: int = 10,
        **kwargs: Any,
    ) -> None:
        if (student is None) == (compression is None):
            raise UserError("give --model.student or --model.compression, one of the two")
        loaded = load_teacher(teacher, teacher_checkpoint, trust_code)
        if student is None:
            assert compression is not None
            student = compress(loaded, compression)
        super().__init__(model=student, **kwargs)
        if loaded.sample_rate_hz != self.student.sample_rate_hz:
            raise UserError(
                f"the teacher works at {loaded.sample_rate_hz} Hz and the student at {self.student.sample_rate_hz} Hz; "
                "wrap the teacher in kdse.models.Aligned with the student's sample_rate_hz"
            )
        # not a submodule: the teacher is in no state_dict, no optimizer and no train() call
        self._teacher = Teacher(loaded, resolve_taps(loaded, teacher_taps), teacher_autocast)
        self.heads = nn.ModuleDict()
        self.student_taps = resolve_taps(self.student, student_taps)
        self.objectives: dict[str, Objective] = {}
        self.schedule: Schedule | None = None  # sets itself in its setup
        self._balance = GradientBalance(balance_every) if balance_gradients else None
        self._shapes: tuple[dict[str, torch.Size], dict[str, torch.Size]] | None = None
        self._idle: dict[tuple[str, ...], list[nn.Parameter]] = {}
        self._active: tuple[str, ...] = ()
        self._teacher_scored = False
        self._uncompiled = False  # whether parts wait for their first batch
        sizes = count_parameters(loaded), count_parameters(self.student)
        if sizes[0]:
            log.info("teacher %d parameters, student %d: ratio %.2f", *sizes, sizes[0] / max(1, sizes[1]))
        else:
            log.info("student %d parameters; the teacher (a file, library or taught set) has none to count", sizes[1])

    @property
    def student(self) -> SpeechModel:
        """The network that is trained."""
        return self.model

    @property
    def teacher(self) -> SpeechModel:
        """The frozen network; always in eval mode, never in a checkpoint."""
        return self._teacher.network

    @property
    def teacher_taps(self) -> dict[str, Tap]:
        """The teacher's distillation points by name."""
        return self._teacher.taps

    @property
    def follower(self) -> nn.Module:
        """The teacher, which goes where the student goes."""
        return self.teacher

    def bind_objective(self, objective: Objective, clip_seconds: float = CLIP_SECONDS) -> None:
        """Binds an objective to the two models and keeps its heads, before optimizers are made and weights loaded.

        Taps are probed with a clip of ``clip_seconds``, the run's crops: frame counts depend on it.

        Raises:
            ValueError: if its name is taken, a tap is missing, or its taps cannot be compared.
        """
        name = objective.name
        if self.objectives.get(name) is objective:
            return
        if name in self.objectives or name == SUPERVISED:
            raise UserError(f"objectives: the name {name!r} is used twice; give each objective its own name")
        if objective.uses_taps and not self._teacher.has_activations:
            raise UserError(
                f"objectives.{name}: compares activations, which neither a recorded teacher nor several at once have; "
                "use an output objective, or store taps (`kdse teach --taps`)"
            )
        heads = objective.bind(self.teacher_taps, self.student_taps, partial(self._tap_shapes, clip_seconds))
        if len(heads):
            self.heads[name] = heads
        self.objectives[name] = objective

    def _tap_shapes(self, clip_seconds: float) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
        if self._shapes is None:
            samples = self.teacher.fixed_samples or round(clip_seconds * self.student.sample_rate_hz)
            stored = self.teacher.shapes() if isinstance(self.teacher, Recorded) else None
            of_teacher = probe(self.teacher, self.teacher_taps, samples) if stored is None else stored
            self._shapes = of_teacher, probe(self.student, self.student_taps, samples)
        return self._shapes

    # --- the loop ---

    def term_weights(self) -> dict[str, float]:
        """Schedule weight of every term at the current optimizer step."""
        terms = [SUPERVISED, *self.objectives]
        if self.schedule is None:
            return dict.fromkeys(terms, 1.0)
        return self.schedule.weights(self.global_step, terms)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        weights = self.term_weights()
        factors = {SUPERVISED: 1.0} | {o.name: o.weight for o in self.objectives.values()}
        self._active = tuple(name for name, weight in weights.items() if weight * factors[name] > 0)
        if not self._active:
            raise UserError(f"schedule: every term has weight zero at step {self.global_step}: nothing to train")
        if self._uncompiled:
            self._compile_all_terms(batch)
        if self._student_pass is not None and self._active not in self._idle:
            self._connect_eager(batch)
        raw = self._values(batch, self._active)
        total = self._weigh(raw, {name: weights[name] * factors[name] for name in raw}, has_labels(batch))
        self.log_step(total)
        return self._connect(total) * window_factor(self.trainer, batch_idx)

    def _values(self, batch: Batch, names: Iterable[str]) -> dict[str, Tensor]:
        """Raw values of terms on a batch, the supervised loss first."""
        active = [o for o in self.objectives.values() if o.name in names]
        exchange = self.exchange(batch, active)
        raw: dict[str, Tensor] = {}
        if SUPERVISED in names:
            raw[SUPERVISED] = self.supervised_loss(exchange.student, batch)
        for objective in active:
            exchange.heads = self.heads_of(objective)
            raw[objective.name] = objective.loss(exchange)
        return raw

    def _weigh(self, raw: dict[str, Tensor], weights: dict[str, float], labelled: bool) -> Tensor:
        """The sum of weight x raw value, each term noted for the log; balanced first if that is on."""
        if self._balance is not None and len(raw) > 1:
            factors = self._balance.factors(raw, self.model.parameters(), self.global_step, next(iter(raw)))
            weights = {name: weights[name] * factors[name] for name in raw}
        total = torch.zeros((), device=self.device)
        for name, value in raw.items():
            if name == SUPERVISED:
                self.note_supervised(value, weights[name], labelled)
            else:
                self.note_term(name, value, weights[name])
            total = total + weights[name] * value
        return total

    def heads_of(self, objective: Objective) -> nn.ModuleDict:
        """The trainable modules that a bound objective asked for; an empty ModuleDict if none."""
        heads = self.heads[objective.name] if objective.name in self.heads else nn.ModuleDict()
        assert isinstance(heads, nn.ModuleDict)
        return heads

    def exchange(self, batch: Batch, active: list[Objective]) -> Exchange:
        """Runs both networks, recording no more than the active objectives compare."""
        noisy = batch["noisy"]
        teacher_names = {pair[0] for o in active for pair in o.bound_pairs}
        student_names = {pair[1] for o in active for pair in o.bound_pairs}
        teacher: Estimate | None = None
        teacher_taps: Mapping[str, Tensor] = {}
        if active:
            teacher, teacher_taps = self._teacher.teach(noisy, teacher_names, batch)
        student, student_taps = self._learn(noisy, student_names)
        return Exchange(
            noisy=noisy,
            clean=batch.get("clean"),
            teacher=teacher,
            student=student,
            teacher_taps=teacher_taps,
            student_taps=student_taps,
            step=self.global_step,
            labelled=batch.get("labelled"),
            run_teacher=partial(self._teacher.teach, names=teacher_names),
            run_student=partial(self._learn, names=student_names),
        )

    def _learn(self, noisy: Tensor, names: set[str]) -> tuple[Estimate, Mapping[str, Tensor]]:
        taps = {name: tap for name, tap in self.student_taps.items() if name in names}
        return record(self.student, taps, noisy, self._student_pass)

    def _connect(self, total: Tensor) -> Tensor:
        """Joins parameters outside this phase to the total, so that plain DDP survives the switch.

        Which those are is read off the autograd graph, once for each set of active terms.
        """
        if self._active not in self._idle:
            used = _leaves(total)
            self._idle[self._active] = [p for p in self.trained_parameters() if p.requires_grad and id(p) not in used]
        return connected(total, self._idle[self._active])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Adam moves a parameter whose gradient is zero, so parameters outside the phase get none at all.
        for parameter in self._idle.get(self._active, ()):
            parameter.grad = None

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        return [*self.model.parameters(), *self.heads.parameters()]

    def _terms_ahead(self) -> list[str]:
        """The terms that have a weight in any phase, the supervised loss first."""
        phases = self.schedule.phases if self.schedule is not None else [Phase({SUPERVISED: 1.0, EVERY_OBJECTIVE: 1.0})]
        terms = [SUPERVISED, *(o.name for o in self.objectives.values() if o.weight > 0)]
        return [term for term in terms if any(phase.weight(term) > 0 for phase in phases)]

    def on_fit_start(self) -> None:
        taught_set = getattr(getattr(self.trainer, "datamodule", None), "taught_set", None)
        if taught_set is not None and not self._teacher.comes_with_data:
            raise UserError(
                f"--data.taught_set {taught_set}: teaches in the place of a network, and there is one; leave out "
                "--model.teacher, or name the network and kdse.models.Recorded in kdse.models.Teachers"
            )
        self.check_labels([t for t in self._terms_ahead() if t == SUPERVISED or self.objectives[t].uses_clean])
        if not self.objectives:
            log.warning("no objectives: the student is trained with the supervised loss alone")
        if self.schedule is None and self.objectives:
            log.warning("no schedule: the supervised loss and every objective have weight 1 throughout")
        for objective in self.objectives.values():
            if objective.compares_items:
                gather = bool(getattr(objective, "gather", False))
                log.info("objectives.%s: %s", objective.name, _effective_batch(gather, self.trainer))

    # --- torch.compile ---

    def compile_parts(self) -> dict[str, str | None]:
        prepare(keep_graphs=self._balance is not None)
        objectives = [self.objectives[term] for term in self._terms_ahead() if term != SUPERVISED]
        pairs = [pair for objective in objectives for pair in objective.bound_pairs]
        parts: dict[str, str | None] = {}
        if objectives and not isinstance(self.teacher, Recorded):
            taps = {name: self.teacher_taps[name] for name, _ in pairs}
            several = "several teachers answer one by one" if isinstance(self.teacher, Teachers) else None
            parts["teacher"] = several or why_eager_network(self.teacher, taps, self.device, trains=False)
            if parts["teacher"] is None:
                self._teacher.compiled = CompiledNetwork(self.teacher, taps, "teacher")
        parts |= self.compile_student({name: self.student_taps[name] for _, name in pairs})
        for objective in objectives:
            what = f"objectives.{objective.name}"
            parts[what] = why_eager(objective, self.device)
            if parts[what] is None:  # (a method of one object alone)
                part: Any = objective
                vars(part)["compare"] = Compiled(part.compare, what)
        self._uncompiled = None in parts.values()
        return parts

    def _compile_all_terms(self, batch: Batch) -> None:
        """Compiles what any phase needs by a step that changes nothing, so that no switch has to wait."""
        self._uncompiled = False
        with restored(self):
            trained = [p for p in self.trained_parameters() if p.requires_grad]
            torch.autograd.grad(_sum(self._values(batch, self._terms_ahead())), trained, allow_unused=True)

    def _connect_eager(self, batch: Batch) -> None:
        """`_connect` before a step: a compiled network depends on all its parameters, whatever is asked of it."""
        with restored(self), torch.compiler.set_stance("force_eager"):
            self._connect(_sum(self._values(batch, self._active)))

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        self._teacher.compiled = None
        for objective in self.objectives.values():
            vars(objective).pop("compare", None)

    # --- the teacher's own quality, once ---

    def _evaluate(self, batch: Batch, stage: str) -> None:
        super()._evaluate(batch, stage)
        recorded = self._teacher.comes_with_data
        if batch.get("clean") is None or not self._scores_teacher(stage) or (recorded and batch.get("taught") is None):
            return
        with torch.no_grad():
            estimate = self._teacher.teach(batch["noisy"], batch=batch)[0]
        self.scores.add(batch, estimate.waveform, system="teacher")

    def _scores_teacher(self, stage: str) -> bool:
        return stage == "test" or not (self._teacher_scored or self.trainer.sanity_checking)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            self._teacher_scored = True

    # --- checkpoints: the student and the heads, never the teacher ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["kdse"]["teacher_sha256"] = fingerprint(self.teacher)
        checkpoint["kdse"]["teacher_scored"] = self._teacher_scored
        if self._balance is not None:
            checkpoint["kdse"]["balance"] = self._balance.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        about = checkpoint.get("kdse", {})
        self._teacher_scored = bool(about.get("teacher_scored", False))
        if self._balance is not None:
            self._balance.load_state_dict(about.get("balance", {}))
        fitting = self.trainer.state.fn == "fit"
        stored = about.get("teacher_sha256")
        if fitting and stored is not None and stored != fingerprint(self.teacher):
            raise UserError(
                "--ckpt_path: this run was started under another teacher; give the same --model.teacher_checkpoint"
            )
        if not fitting:  # heads serve training only; a test without objectives has none to load into
            own = self.state_dict()
            for key in [k for k in checkpoint["state_dict"] if k.startswith("heads.") and k not in own]:
                del checkpoint["state_dict"][key]


def _effective_batch(gather: bool, trainer: L.Trainer) -> str:
    """How many items an objective that compares items of a batch sees at once."""
    world = trainer.world_size if gather else 1
    parts = f"the batches of {world} processes together" if world > 1 else "one process's batch"
    if trainer.accumulate_grad_batches > 1:
        parts += f", each of the {trainer.accumulate_grad_batches} accumulated micro-batches by itself"
    return f"compares the items of {parts}"


def _sum(values: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([*values.values()]).sum()


def _leaves(total: Tensor) -> set[int]:
    """ids of the leaf tensors that ``total`` depends on."""
    seen: set[Any] = set()
    found: set[int] = set()
    stack = [total.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        stack.extend(parent for parent, _ in node.next_functions)
    return found
