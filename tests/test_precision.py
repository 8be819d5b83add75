"""bf16-mixed and 32-true train; what compares signals is computed in float32 whatever autocast says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import kdse.losses
from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.losses import CompressedSpectral, PhaseSensitive, SiSdr, WeightedSum
from kdse.models import Cruse, Dccrn, Gtcrn, Manner, Uformer, UlUnas, UNet
from kdse.models.base import Estimate
from kdse.objectives import SimilarityPreserving
from kdse.schedule import Joint, TwoStep
from tests.deploy.export.tiny import networks
from tests.objectives.test_together import BATCH, KINDS, distiller, make
from tests.toys import ToyData, ToySet, make_student, make_teacher, make_trainer

AUTOCAST = {"device_type": "cpu", "dtype": torch.bfloat16}
MODELS = {
    "cruse": make_student,
    "unet": lambda: UNet(channels=[4, 8]),
    "dccrn": lambda: Dccrn([4, 4, 6], lstm_units=8),
    "gtcrn": lambda: Gtcrn(channels=4, hidden=4),
    "ul-unas": lambda: UlUnas(channels=[2, 2, 2, 2, 4]),
    "uformer": lambda: Uformer(channels=[2, 2], dilated_layers=1),
    "manner": lambda: Manner(hidden=3, depth=2),
}
LOSSES = {
    **{name: getattr(kdse.losses, name) for name in kdse.losses.__all__ if name[0].isupper()},
    "WeightedSum": lambda: WeightedSum({"a": SiSdr(), "b": PhaseSensitive()}),
}
#: Operations that compute nothing.
MOVES = {"_to_copy", "view", "_unsafe_view", "permute", "transpose", "unsqueeze", "squeeze", "detach", "alias",
         "expand", "slice", "select", "unbind", "clone", "cat", "stack"}  # fmt: skip


def enhancer(model, loss=None) -> Enhancer:
    torch.manual_seed(0)
    return Enhancer(model, loss, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3), metrics=["si_sdr"])


def fit(model, folder, precision, steps, callbacks=(), **settings) -> dict[str, float]:
    trainer = make_trainer(folder, list(callbacks), max_steps=steps, precision=precision, **settings)
    trainer.fit(model, ToyData())
    assert str(trainer.precision) == precision
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


class Watch(TorchDispatchMode):
    """The floating dtypes that went into every operation, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = {x.dtype for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        self.dtypes.setdefault(str(func).split(".")[1], set()).update(found)
        return func(*args, **(kwargs or {}))


# --- training ---


@pytest.mark.integration
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_both_train_an_enhancer_and_a_two_step_run(tmp_path, precision):
    for make_model, callbacks in (
        (lambda: enhancer(make_student), []),
        (lambda: distiller(), [SimilarityPreserving(), TwoStep(distil_steps=6)]),
    ):
        settings = {"limit_val_batches": 1.0, "callbacks": callbacks}
        trainer = make_trainer(tmp_path, limit_val_batches=1.0)
        trainer.validate(make_model(), ToyData(), verbose=False)
        before = float(trainer.callback_metrics["val/loss"])
        after = fit(make_model(), tmp_path, precision, 24, **settings)
        assert after["val/loss"] < 0.98 * before
        assert all(torch.isfinite(torch.tensor(value)) for value in after.values())


@pytest.mark.integration
@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_in_other_precisions_to_about_the_float32_loss(tmp_path, precision, name):
    reference = fit(enhancer(MODELS[name], SiSdr()), tmp_path, "32-true", 2)["train/loss"]
    other = fit(enhancer(MODELS[name], SiSdr()), tmp_path, precision, 2)["train/loss"]
    assert other == pytest.approx(reference, rel=0.05 if precision == "bf16-mixed" else 0.01, abs=0.05)


@pytest.mark.integration
@pytest.mark.parametrize("name", KINDS)
def test_every_objective_trains_in_bf16_mixed_with_finite_weights(tmp_path, name):
    model = distiller()
    before = copy.deepcopy(model.student.state_dict())
    logged = fit(model, tmp_path, "bf16-mixed", 1, [make(name), Joint(0.5)])
    assert torch.isfinite(torch.tensor(logged["train/loss"]))
    assert all(torch.isfinite(p).all() for p in model.trained_parameters())
    assert any(not torch.equal(before[k], v) for k, v in model.student.state_dict().items())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_formats_that_would_store_windows_and_moments_in_16_bits_are_refused_by_name(tmp_path, precision):
    with pytest.raises(ValueError, match=rf"--trainer\.precision={precision}.*bf16-mixed"):
        fit(enhancer(make_student), tmp_path, precision, 1)


# --- what stays in float32 ---


def test_in_bf16_mixed_networks_run_in_bf16_and_transforms_weights_and_moments_stay_in_float32(tmp_path):
    model = distiller()
    trainer = make_trainer(
        tmp_path, [SimilarityPreserving(), TwoStep(distil_steps=1)], max_steps=2, precision="bf16-mixed"
    )
    with Watch() as watch:
        trainer.fit(model, ToyData())
    assert torch.bfloat16 in watch.dtypes["convolution"]
    assert watch.dtypes["_fft_r2c"] == {torch.float32} and watch.dtypes["_fft_c2r"] == {torch.complex64}
    moments = [x for state in trainer.optimizers[0].state.values() for x in state.values()]
    assert moments and {x.dtype for x in [*moments, *model.parameters()]} == {torch.float32}


@pytest.mark.parametrize("name", KINDS)
def test_an_objective_on_bf16_activations_equals_float64_on_the_same_numbers(name):
    model, objective = distiller(), make(name)
    model.bind_objective(objective)
    torch.manual_seed(1)
    noisy = torch.stack([ToySet(BATCH)[i]["noisy"] for i in range(BATCH)])
    with torch.autocast(**AUTOCAST):
        exchange = model.exchange({"noisy": noisy, "clean": 0.5 * noisy}, [objective])
        if name == "LatentMix":
            pytest.skip("runs both networks again, in the precision of the run")
        exchange.heads = model.heads_of(objective)
        for taps in ("teacher_taps", "student_taps"):  # (the CPU's GRU ignores autocast; a GPU's does not)
            setattr(exchange, taps, {k: x.bfloat16() for k, x in getattr(exchange, taps).items()})
        with Watch() as watch:
            lowered = objective.loss(exchange)
    assert {op for op, found in watch.dtypes.items() if torch.bfloat16 in found} <= MOVES
    exact = double(exchange)
    exact.heads = copy.deepcopy(exchange.heads).double()
    reference = objective.loss(exact)
    assert lowered.dtype == torch.float32 and reference.dtype == torch.float64
    assert float(lowered.detach()) == pytest.approx(float(reference.detach()), rel=2e-4, abs=1e-6)


def double(exchange):
    """The same numbers in float64."""
    exact = copy.copy(exchange)
    for field in ("noisy", "clean", "teacher", "student", "teacher_taps", "student_taps"):
        value = getattr(exchange, field)
        setattr(exact, field, tree_map(lambda x: x.detach().to(widened(x)) if torch.is_tensor(x) else x, value))
    return exact


def widened(x: torch.Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64


@pytest.mark.parametrize("name", LOSSES)
def test_a_supervised_loss_under_autocast_equals_float64_on_the_same_estimate(name):
    loss = LOSSES[name]()
    items = [ToySet(4)[i] for i in range(4)]
    noisy, clean = (torch.stack([item[key] for item in items]) for key in ("noisy", "clean"))
    torch.manual_seed(0)
    model, watch = make_student(), Watch()
    with torch.autocast(**AUTOCAST):
        estimate = model(noisy)
        with watch:
            lowered = loss(estimate, clean, noisy)
    assert torch.bfloat16 not in set().union(*watch.dtypes.values())
    exact = Estimate(*(x.detach().to(widened(x)) for x in estimate))
    reference = copy.deepcopy(loss).double()(exact, clean.double(), noisy.double())
    assert lowered.dtype == torch.float32 and reference.dtype == torch.float64
    assert float(lowered) == pytest.approx(float(reference), rel=1e-4)


def test_metrics_and_validation_losses_of_a_bf16_run_are_those_of_its_estimates_in_float64(tmp_path):
    model = enhancer(make_student, CompressedSpectral())
    trainer = make_trainer(tmp_path, limit_val_batches=1.0, precision="bf16-mixed")
    trainer.validate(model, ToyData(), verbose=False)
    items = [ToySet(4)[i] for i in range(4)]
    scores, losses = [], []
    with torch.no_grad():
        for first in (0, 2):  # batches as in ToyData
            noisy, clean = (torch.stack([item[key] for item in items[first : first + 2]]) for key in ("noisy", "clean"))
            with torch.autocast(**AUTOCAST):
                wave = model.model(noisy).waveform
            for estimate, target, heard in zip(wave.double(), clean.double(), noisy.double(), strict=True):
                share = (estimate @ target) / (target @ target) * target
                scores.append(10 * torch.log10(share.square().sum() / (estimate - share).square().sum()))
                loss = CompressedSpectral().double()
                losses.append(loss(Estimate(estimate[None]), target[None], heard[None]))
    assert float(trainer.callback_metrics["val/si_sdr"]) == pytest.approx(float(torch.stack(scores).mean()), abs=1e-4)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_a_model_with_another_stft_than_the_phase_sensitive_loss_is_told_so(tmp_path):
    with pytest.raises(ValueError, match="PhaseSensitive's STFT gives .* or a loss on waveforms"):
        fit(enhancer(MODELS["dccrn"]), tmp_path, "32-true", 1)


def test_the_models_here_are_all_that_kdse_builds():
    assert networks() == {type(build()) for build in MODELS.values()}
    assert isinstance(make_teacher(), Cruse) and Distiller
