"""The promises of the training loop: teacher frozen, phases clean, arms comparable."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.models.base import Estimate, SpeechModel
from kdse.models.checkpoint import fingerprint, load_model
from kdse.models.recorded import Recorded
from kdse.objectives import Objective, OutputDistillation, SelectivePatches, SimilarityPreserving
from kdse.run.log import training_log
from kdse.schedule import Joint, TwoStep
from tests.toys import ToyData, make_student, make_teacher, make_trainer

ADAM = {"optimizer": lambda p: torch.optim.Adam(p, lr=1e-3)}


def distiller(**arguments) -> Distiller:
    torch.manual_seed(0)
    return Distiller(**{"teacher": make_teacher, "student": make_student, "metrics": ["si_sdr"], **ADAM, **arguments})


class CountTeacher(Callback):
    """Records the steps at which the teacher ran."""

    def setup(self, trainer, pl_module, stage):
        self.steps = []
        pl_module.teacher.register_forward_hook(lambda *_: self.steps.append(trainer.global_step))


class HeadedObjective(Objective):
    """A trainable projector on the bottleneck: heads must be optimised, checkpointed and dropped on export."""

    def __init__(self, weight: float = 1.0):
        super().__init__(weight, pairs="bottleneck")

    def build_heads(self, teacher_shapes, student_shapes):
        channels_in, channels_out = student_shapes["bottleneck"][1], teacher_shapes["bottleneck"][1]
        return torch.nn.ModuleDict({"project": torch.nn.Conv2d(channels_in, channels_out, 1)})

    def loss(self, exchange):
        projected = exchange.heads["project"](exchange.student_taps["bottleneck"])
        return (projected - exchange.teacher_taps["bottleneck"]).square().mean()


def fit(model, folder, callbacks, **settings):
    trainer = make_trainer(folder, callbacks, **settings)
    trainer.fit(model, ToyData())
    return trainer


def test_the_teachers_bytes_do_not_change_and_it_stays_in_eval_mode(tmp_path):
    model = distiller()
    before = fingerprint(model.teacher)
    fit(model, tmp_path, [SimilarityPreserving(), TwoStep(distil_steps=4)])
    assert fingerprint(model.teacher) == before
    model.train()
    assert not model.teacher.training
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())


def test_the_teacher_is_in_no_checkpoint_and_no_optimizer(tmp_path):
    model = distiller()
    trainer = fit(model, tmp_path, [SimilarityPreserving(), TwoStep(distil_steps=4)])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    student = sum(p.numel() for p in model.student.parameters())
    optimised = sum(p.numel() for g in trainer.optimizers[0].param_groups for p in g["params"])
    assert optimised == student
    assert set(content["state_dict"]) >= {f"model.{k}" for k in model.student.state_dict()}
    assert not [k for k in content["state_dict"] if "teacher" in k]


def test_the_teacher_does_not_run_after_the_switch(tmp_path):
    count = CountTeacher()
    fit(distiller(), tmp_path, [SimilarityPreserving(), TwoStep(distil_steps=3), count], max_steps=8)
    assert count.steps == [0, 1, 2]


def test_the_supervised_loss_is_not_computed_before_the_switch(tmp_path):
    model = distiller()
    steps = []
    original = model.supervised_loss
    model.supervised_loss = lambda *a: steps.append(model.global_step) or original(*a)
    fit(model, tmp_path, [SimilarityPreserving(), TwoStep(distil_steps=3)], max_steps=6)
    assert steps == [3, 4, 5]


def test_heads_are_optimised_checkpointed_and_dropped_on_export(tmp_path):
    model = distiller()
    objective = HeadedObjective()
    trainer = make_trainer(tmp_path, [objective, TwoStep(distil_steps=4)])
    trainer.fit(model, ToyData())
    assert "headed_objective" in model.heads
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    keys = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert [k for k in keys if k.startswith("heads.headed_objective.project")]
    student = load_model(tmp_path / "a.ckpt")
    for name, value in model.student.state_dict().items():
        assert torch.equal(student.state_dict()[name], value)


def test_parameters_outside_the_phase_do_not_move(tmp_path):
    model = distiller()
    frozen = {}

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            frozen[trainer.global_step] = {
                "heads": fingerprint(pl_module.heads),
                "decoder": fingerprint(pl_module.student.decoder[-1]),
            }

    fit(model, tmp_path, [HeadedObjective(), TwoStep(distil_steps=4), Watch()], max_steps=8)
    # the bottleneck objective does not reach the last decoder block; supervision does not reach the head
    assert len({frozen[s]["decoder"] for s in (1, 2, 3, 4)}) == 1
    assert len({frozen[s]["decoder"] for s in (5, 6, 7, 8)}) == 4
    assert len({frozen[s]["heads"] for s in (1, 2, 3, 4)}) == 4
    assert len({frozen[s]["heads"] for s in (4, 5, 6, 7, 8)}) == 1


def test_every_arm_starts_from_identical_student_bytes():
    torch.manual_seed(7)
    supervised = Enhancer(model=make_student)
    torch.manual_seed(7)
    distilled = Distiller(teacher=make_teacher, student=make_student)
    torch.manual_seed(7)
    torch.rand(123)
    late = Distiller(teacher=make_teacher, student=make_student)
    assert fingerprint(supervised.model) == fingerprint(distilled.student) == fingerprint(late.student)


def test_compression_starts_from_the_bytes_of_an_explicit_student_of_that_width():
    torch.manual_seed(7)
    by_ratio = Distiller(teacher=make_teacher, compression=2)
    torch.manual_seed(7)
    arguments = dict(by_ratio.student.init_args)
    explicit = Enhancer(model=lambda: type(by_ratio.student)(**arguments))
    assert fingerprint(by_ratio.student) == fingerprint(explicit.model)


def test_the_total_is_schedule_times_weight_times_raw(tmp_path):
    logger = CSVLogger(tmp_path, name="csv")
    callbacks = [SimilarityPreserving(weight=3.0), Joint(gamma=0.25)]
    fit(distiller(), tmp_path, callbacks, max_steps=1, logger=logger, log_every_n_steps=1)
    logged = training_log(tmp_path).iloc[0]
    name = "terms/similarity_preserving"
    assert logged[f"{name}/weight"] == pytest.approx(0.75)
    expected = 0.75 * logged["terms/supervised/raw"] + 0.75 * logged[f"{name}/raw"]
    assert logged["train/loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("kill_at", [2, 4, 6])
@pytest.mark.parametrize("reset", [False, True])
def test_a_resumed_run_reaches_the_same_weights_as_the_uninterrupted_one(tmp_path, kill_at, reset):
    def callbacks():
        schedule = TwoStep(distil_steps=4, gamma=0.5, reset_optimizer=reset, supervised_learning_rate=5e-4)
        return [HeadedObjective(), SimilarityPreserving(), schedule]

    whole = distiller()
    fit(whole, tmp_path, callbacks(), max_steps=8)

    first = distiller()
    saver = ModelCheckpoint(dirpath=tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    trainer = make_trainer(tmp_path, [*callbacks(), saver, StopAt(kill_at)], enable_checkpointing=True)
    trainer.fit(first, ToyData())
    second = distiller()
    make_trainer(tmp_path, callbacks()).fit(second, ToyData(), ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert fingerprint(second.student) == fingerprint(whole.student)
    assert fingerprint(second.heads) == fingerprint(whole.heads)


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


def test_a_resume_that_would_switch_elsewhere_is_refused_until_accepted(tmp_path):
    trainer = fit(distiller(), tmp_path, [SimilarityPreserving(), TwoStep(distil_fraction=0.5)], max_steps=8)
    trainer.save_checkpoint(tmp_path / "a.ckpt")

    def resume(**arguments):
        callbacks = [SimilarityPreserving(), TwoStep(distil_fraction=0.5, **arguments)]
        make_trainer(tmp_path, callbacks, max_steps=20).fit(
            distiller(), ToyData(), ckpt_path=str(tmp_path / "a.ckpt"), weights_only=True
        )

    with pytest.raises(ValueError, match="accept_new_switch"):
        resume()
    resume(accept_new_switch=True)


def test_a_resume_under_another_teacher_is_refused(tmp_path):
    trainer = fit(distiller(), tmp_path, [SimilarityPreserving(), Joint()])
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    other = copy.deepcopy(make_teacher())
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="another teacher"):
        make_trainer(tmp_path, [SimilarityPreserving(), Joint()], max_steps=20).fit(
            distiller(teacher=other), ToyData(), ckpt_path=str(tmp_path / "a.ckpt"), weights_only=True
        )


def test_the_teachers_own_score_is_logged_once(tmp_path):
    count = CountTeacher()
    trainer = make_trainer(
        tmp_path,
        [SimilarityPreserving(), TwoStep(distil_steps=0), count],
        limit_val_batches=1.0,
        max_epochs=2,
        max_steps=-1,
    )
    trainer.fit(distiller(), ToyData())
    assert "val/teacher_si_sdr" in trainer.callback_metrics
    assert len(count.steps) == 2  # one validation set of two batches, once; no training step needs it


def test_names_are_used_once(tmp_path):
    with pytest.raises(ValueError, match="used twice"):
        fit(distiller(), tmp_path, [OutputDistillation(), OutputDistillation()])


def test_objectives_without_a_teacher_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"kdse\.Distiller"):
        fit(Enhancer(model=make_student), tmp_path, [SimilarityPreserving()])


def test_the_student_must_be_given_one_way():
    with pytest.raises(ValueError, match="one of the two"):
        Distiller(teacher=make_teacher)
    with pytest.raises(ValueError, match="one of the two"):
        Distiller(teacher=make_teacher, student=make_student, compression=3)


def test_a_phases_own_learning_rate_and_a_scheduler_cannot_both_rule(tmp_path):
    model = distiller(lr_scheduler=lambda o: torch.optim.lr_scheduler.ConstantLR(o))
    with pytest.raises(ValueError, match="lr_scheduler"):
        fit(model, tmp_path, [SimilarityPreserving(), TwoStep(distil_steps=2, supervised_learning_rate=1e-4)])


class SomeLabels(ToyData):
    """Every other item has no clean speech; ``corrupt`` puts noise where its clean speech would be."""

    def __init__(self, corrupt: bool, share: float = 0.5) -> None:
        super().__init__()
        self.corrupt, self.share = corrupt, share

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            labelled = (batch["index"] % 2 < 2 * self.share) if self.share else torch.zeros(4, dtype=torch.bool)
            clean = torch.where(labelled[:, None], batch["clean"], torch.randn_like(batch["clean"]) * self.corrupt)
            batch = {**batch, "labelled": labelled, "clean": clean}
        return batch


def test_unlabelled_items_teach_by_the_teacher_alone_and_nothing_peeks_at_their_clean_speech(tmp_path):
    students = []
    for corrupt in (False, True):
        model = distiller()
        trainer = make_trainer(tmp_path, [OutputDistillation(on="mask"), Joint(0.5)], max_steps=4)
        trainer.fit(model, SomeLabels(corrupt))
        students.append(fingerprint(model.student))
    assert students[0] == students[1]


def test_a_batch_without_any_label_trains_on_the_objectives_and_logs_no_supervised_loss(tmp_path):
    model = distiller()
    before = fingerprint(model.student)
    logger = CSVLogger(tmp_path, name="csv")
    trainer = make_trainer(tmp_path, [OutputDistillation(on="mask"), Joint(0.5)], logger=logger, log_every_n_steps=1)
    trainer.fit(model, SomeLabels(False, share=0.0))
    log = training_log(tmp_path)
    assert "terms/supervised/raw" not in log and (log["terms/output_distillation/raw"] > 0).all()
    assert fingerprint(model.student) != before


class Taught(ToyData):
    """The teacher's output comes with the batch."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {**batch, "taught": 0.5 * batch["noisy"]}


def test_recordings_teach_exactly_as_the_network_that_made_them(tmp_path):
    class Halving(SpeechModel):
        def forward(self, noisy):
            return Estimate(0.5 * noisy)

    students = []
    for teacher, data in ((Halving(), ToyData()), (Recorded(), Taught())):
        model = distiller(teacher=teacher)
        make_trainer(tmp_path, [OutputDistillation(on="waveform"), Joint(1.0)], max_steps=3).fit(model, data)
        students.append(fingerprint(model.student))
    assert students[0] == students[1]


def test_a_recorded_teacher_refuses_what_needs_a_network(tmp_path):
    with pytest.raises(ValueError, match="activations.*output objective"):
        fit(distiller(teacher=Recorded()), tmp_path, [SimilarityPreserving(), Joint()])
    with pytest.raises(ValueError, match="--data.teacher_folder"):
        fit(distiller(teacher=Recorded()), tmp_path, [OutputDistillation(), Joint()])
    with pytest.raises(ValueError, match="width_parameters"):
        Distiller(teacher=Recorded(), compression=4)


class NoLabels(ToyData):
    labelled_share = 0.0


@pytest.mark.parametrize(
    ("objectives", "schedule", "named"),
    [
        ([OutputDistillation()], None, "supervised"),
        ([OutputDistillation()], TwoStep(distil_steps=4), "supervised"),
        ([OutputDistillation()], Joint(0.0), "supervised"),
        ([SelectivePatches()], Joint(1.0), "selective_patches"),
    ],
)
def test_terms_that_need_clean_speech_are_refused_before_the_first_step(objectives, schedule, named, tmp_path):
    trainer = make_trainer(tmp_path, [*objectives, *([schedule] if schedule else [])])
    with pytest.raises(ValueError, match=rf"the {named} loss needs clean speech.*--schedule.gamma 1"):
        trainer.fit(distiller(), NoLabels())
    assert trainer.global_step == 0


def test_without_labels_the_teacher_alone_teaches(tmp_path):
    model = distiller()
    before = fingerprint(model.student)
    make_trainer(tmp_path, [OutputDistillation(), Joint(1.0)], max_steps=2).fit(model, NoLabels())
    assert fingerprint(model.student) != before
