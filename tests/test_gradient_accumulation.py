"""A step is an optimizer step: k batches of b train what one batch of k b trains, across the switch."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.objectives import OutputDistillation
from kdse.run.log import training_log
from kdse.schedule import TwoStep
from kdse.training.checkpoint_files import SafeCheckpointIO
from tests.test_distiller import HeadedObjective
from tests.toys import ToyData, ToySet, make_student, make_teacher, make_trainer

RATE = 1e-2


class Sgd(torch.optim.SGD):
    """Notes what it is given: the rate and every parameter's gradient, at each step."""

    def __init__(self, parameters) -> None:
        super().__init__(parameters, lr=RATE)
        self.seen: list[dict] = []

    def step(self, closure=None):
        def noted():
            loss = None if closure is None else closure()  # (a gradient scaler has called it by now)
            group = self.param_groups[0]
            gradients = [None if p.grad is None else p.grad.clone() for p in group["params"]]
            self.seen.append({"rate": group["lr"], "gradients": gradients})
            return loss

        return super().step(noted)


class Sizes(ToyData):
    """Batches of these sizes, each epoch the same items in the same order."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def train_dataloader(self) -> DataLoader:
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        batches = [list(range(end - size, end)) for end, size in zip(ends, self.sizes, strict=True)]
        return DataLoader(ToySet(sum(self.sizes)), batch_sampler=batches)


def distiller(**settings) -> Distiller:
    torch.manual_seed(0)
    return Distiller(
        **{"teacher": make_teacher, "student": make_student, "metrics": ["si_sdr"], "optimizer": Sgd, **settings}
    )


def train(folder, sizes, schedule, accumulate=1, objectives=None, model=None, **settings):
    """Two epochs (unless told otherwise) of a two-step run; the trainer and the model."""
    model = model or distiller()
    callbacks = [*(objectives or [OutputDistillation(on="mask"), HeadedObjective(0.1)]), schedule]
    settings = {"max_steps": -1, "max_epochs": 2, "gradient_clip_val": 5.0, **settings}
    trainer = make_trainer(folder, callbacks, accumulate_grad_batches=accumulate, **settings)
    trainer.fit(model, Sizes(sizes))
    return trainer, model


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.trained_parameters()])


def norm(gradients) -> float:
    return float(torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt())


WINDOWS = {4: ([2] * 12, [8, 8, 8]), 2: ([2] * 10, [8, 8, 4]), 1: ([2] * 9, [8, 8, 2])}


@pytest.mark.parametrize(
    ("left", "schedule", "clip"),
    [
        (4, {"distil_steps": 3}, 5.0),
        (2, {"distil_epochs": 1}, 5.0),
        (1, {"distil_fraction": 0.5}, 5.0),
        (2, {"distil_fraction": 0.5}, 0.01),
    ],
)
def test_accumulated_batches_train_what_one_large_batch_trains(tmp_path, left, schedule, clip):
    small, large = WINDOWS[left]  # by how many batches the last window of an epoch has
    one, whole = train(tmp_path, large, TwoStep(**schedule), gradient_clip_val=clip)
    many, parts = train(tmp_path, small, TwoStep(**schedule), accumulate=4, gradient_clip_val=clip)
    assert one.global_step == many.global_step == 6
    assert whole.schedule.starts == parts.schedule.starts == [0, 3]
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=2e-7)
    assert not torch.equal(weights(whole), weights(distiller_with_heads()))


def distiller_with_heads() -> Distiller:
    model = distiller()
    model.bind_objective(HeadedObjective())
    return model


def test_the_switch_falls_at_the_same_optimizer_step_and_its_batches_all_belong_to_one_phase(tmp_path):
    model, seen = distiller(), []
    original = model.supervised_loss
    model.supervised_loss = lambda *a: seen.append(model.global_step) or original(*a)
    train(tmp_path, [2] * 10, TwoStep(distil_steps=2), accumulate=4, model=model)
    assert seen == [2] * 2 + [3] * 4 + [4] * 4 + [5] * 2  # the batches of each step: 4, 4 and the 2 that are left


def test_clipping_acts_once_a_step_on_the_accumulated_gradient_of_the_phases_own_parameters(tmp_path):
    trainer, model = train(tmp_path, [2] * 8, TwoStep(distil_steps=2), accumulate=4, gradient_clip_val=1e-3)
    seen = trainer.optimizers[0].seen
    assert len(seen) == 4 and [norm(s["gradients"]) for s in seen] == pytest.approx([1e-3] * 4, rel=1e-3)
    heads = len(list(model.heads.parameters()))
    assert all(g is not None for s in seen[:2] for g in s["gradients"][-heads:])
    assert all(g is None for s in seen[2:] for g in s["gradients"][-heads:])  # they neither move nor count


def test_a_gradient_scaler_unscales_before_clipping_and_leaves_idle_parameters_alone(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    plugins = [SafeCheckpointIO(), MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    settings = {"accumulate": 4, "gradient_clip_val": 1e-3, "plugins": plugins}
    trainer, model = train(tmp_path, [2] * 8, TwoStep(distil_steps=2), **settings)
    seen, heads = trainer.optimizers[0].seen, len(list(model.heads.parameters()))
    assert trainer.precision == "16-mixed" and trainer.global_step == 4
    assert [norm(s["gradients"]) for s in seen] == pytest.approx([1e-3] * 4, rel=1e-3)
    assert [all(g is None for g in s["gradients"][-heads:]) for s in seen] == [False, False, True, True]


def test_a_learning_rate_scheduler_steps_once_an_epoch_however_many_batches_make_a_step(tmp_path):
    halve = {"lr_scheduler": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5)}
    trainer, _ = train(tmp_path, [2] * 10, TwoStep(distil_steps=2), 4, model=distiller(**halve), max_epochs=3)
    assert [s["rate"] for s in trainer.optimizers[0].seen] == [RATE] * 3 + [RATE / 2] * 3 + [RATE / 4] * 3
    short = {"max_epochs": None, "max_steps": 4}
    trainer, _ = train(tmp_path, [2] * 10, TwoStep(distil_steps=2), 4, model=distiller(**halve), **short)
    assert [s["rate"] for s in trainer.optimizers[0].seen] == [RATE] * 3 + [RATE / 2]


def test_a_scheduler_that_waits_for_a_plateau_watches_the_metric_it_names(tmp_path):
    torch.manual_seed(0)
    waits = {"lr_scheduler": lambda o: ReduceLROnPlateau(o, monitor="val/loss", patience=0, threshold=1e9)}
    model = Enhancer(make_student, optimizer=Sgd, metrics=["si_sdr"], **waits)
    trainer = make_trainer(tmp_path, max_steps=-1, max_epochs=3, limit_val_batches=1.0)
    trainer.fit(model, Sizes([4, 4]))
    rates = [s["rate"] for s in trainer.optimizers[0].seen]
    assert rates[0] == RATE and rates[-1] < RATE
    silent = {"lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}
    with pytest.raises(ValueError, match="does not say what it watches"):
        make_trainer(tmp_path).fit(Enhancer(make_student, optimizer=Sgd, metrics=["si_sdr"], **silent), Sizes([4]))


def test_the_optimizer_is_reset_at_the_switch_and_not_within_its_step(tmp_path):
    adam = {"optimizer": lambda p: torch.optim.Adam(p, lr=1e-3)}
    schedule = TwoStep(distil_steps=2, gamma=0.5, reset_optimizer=True)
    trainer, _ = train(tmp_path, [2] * 10, schedule, accumulate=4, model=distiller(**adam))
    assert {int(state["step"]) for state in trainer.optimizers[0].state.values()} == {4}  # of six, two before it


def test_the_log_has_one_line_an_optimizer_step(tmp_path):
    logger = CSVLogger(tmp_path, name="csv")
    train(tmp_path, [2] * 10, TwoStep(distil_steps=2), accumulate=4, logger=logger, log_every_n_steps=1)
    lines = training_log(tmp_path).dropna(subset=["train/loss"])
    assert lines["step"].tolist() == [0, 1, 2, 3, 4, 5]
