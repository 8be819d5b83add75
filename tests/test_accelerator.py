"""A training step belongs on one device, whichever it is, and never waits for it: shown without having one.

The meta device computes shapes alone and mixes with no tensor of the CPU, so a tensor made on the wrong device is an
error there as it would be on a GPU, and so is reading a value.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdse.losses
from kdse.data.position import ResumableData
from kdse.enhancer import Enhancer
from kdse.internals.torch import watched
from kdse.losses import CompressedSpectral, MannerLoss, MultiResolutionStft, PhaseSensitive, SiSdr, WeightedSum
from kdse.models import Cruse, Dccrn, Gtcrn, Manner, SpeechModel, Uformer, UlUnas, UNet
from kdse.models.base import Estimate
from kdse.schedule import EVERY_OBJECTIVE, SUPERVISED, Joint, Phase, Phases, Schedule, TwoStep
from kdse.training.divergence import SkipNonFinite
from tests.objectives.test_together import BATCH, KINDS, distiller, make

MODELS: dict[str, Any] = {
    "Cruse": lambda: Cruse(channels=[2, 4, 4, 4]),
    "UNet": lambda: UNet(),
    "Dccrn": lambda: Dccrn(channels=[2, 2, 2, 2, 2, 2], lstm_units=4),
    "Gtcrn": lambda: Gtcrn(channels=4, hidden=4),
    "UlUnas": lambda: UlUnas(channels=[2, 2, 2, 2, 4]),
    "Uformer": lambda: Uformer(),
    "Manner": lambda: Manner(),
}
LOSSES: dict[str, nn.Module] = {
    "CompressedSpectral": CompressedSpectral(),
    "MannerLoss": MannerLoss(),
    "MultiResolutionStft": MultiResolutionStft(),
    "PhaseSensitive": PhaseSensitive(),
    "SiSdr": SiSdr(),
    "WeightedSum": WeightedSum({"a": SiSdr(), "b": CompressedSpectral()}, {"a": 1.0, "b": 0.5}),
}


def _batch(device: str, samples: int = 4096, labelled: Tensor | None = None) -> dict[str, Any]:
    batch: dict[str, Any] = {name: torch.zeros(BATCH, samples, device=device) for name in ("noisy", "clean")}
    return batch if labelled is None else batch | {"labelled": labelled}


def _to_meta(module: Enhancer) -> Enhancer:
    """Moves a module as Lightning would move it to a GPU."""
    with torch.no_grad():
        return module.to("meta")


def _attach(module: Enhancer, monkeypatch: pytest.MonkeyPatch, step: int = 0) -> None:
    trainer = SimpleNamespace(
        accumulate_grad_batches=1,
        num_training_batches=10,
        log_every_n_steps=50,
        loggers=[],
        optimizers=[],
        lr_scheduler_configs=[],
    )
    monkeypatch.setattr(type(module), "trainer", trainer)
    monkeypatch.setattr(type(module), "global_step", step)
    monkeypatch.setattr(type(module), "log", lambda *_a, **_k: None)


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_every_loss_that_is_shipped_is_tested_here() -> None:
    assert {n for n in dir(kdse.losses) if isinstance(getattr(kdse.losses, n), type)} == set(LOSSES)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_on_the_device_it_is_moved_to(name: str) -> None:
    model: SpeechModel = MODELS[name]().to("meta")
    estimate = model(torch.zeros(2, 4096, device="meta"))
    parts = [part for part in estimate if part is not None]
    assert {part.device.type for part in parts} == {"meta"}
    estimate.waveform.square().mean().backward()
    assert _gradients(model)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_computes_on_the_device_of_the_estimate(name: str) -> None:
    loss = LOSSES[name].to("meta")
    model = Cruse(channels=[2, 4, 4, 4]).to("meta")
    noisy = torch.zeros(2, 16000, device="meta")
    estimate: Estimate = model(noisy)
    value = loss(estimate, torch.zeros_like(noisy), noisy)
    assert value.device.type == "meta"
    value.backward()
    assert _gradients(model)


@pytest.mark.parametrize("name", KINDS)
def test_every_objective_computes_on_the_device_of_the_run(name: str) -> None:
    model, objective = distiller(), make(name)
    model.bind_objective(objective)
    _to_meta(model)
    batch = _batch("meta")
    exchange = model.exchange(batch, [objective])  # type: ignore[arg-type]
    exchange.heads = model.heads_of(objective)
    value = objective.loss(exchange)
    assert value.device.type == "meta" and value.dim() == 0
    value.backward()
    assert _gradients(model.student)


PHASES: dict[str, tuple[Schedule, int]] = {
    "before the switch": (TwoStep(distil_steps=4), 0),
    "after the switch": (TwoStep(distil_steps=4), 4),
    "together": (Joint(gamma=0.5), 0),
    "on a ramp": (
        Phases(
            [
                Phase({EVERY_OBJECTIVE: 1.0}, steps=2),
                Phase({SUPERVISED: 1.0}, ramp="linear", ramp_steps=4),
            ]
        ),
        3,
    ),
}


@pytest.mark.parametrize("labels", [None, [True, False, True, False], [False] * BATCH])
@pytest.mark.parametrize("name", PHASES)
def test_a_step_of_every_phase_stays_on_the_device(
    name: str, labels: list[bool] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, step = PHASES[name]
    model, objective = distiller(), make("SimilarityPreserving")
    model.bind_objective(objective)
    _attach(model, monkeypatch, step)
    schedule.on_fit_start(model.trainer, model)
    model.schedule = schedule
    _to_meta(model)
    batch = _batch("meta")
    if labels is not None:
        batch["labelled"] = torch.tensor(labels, device="cpu")
        batch = ResumableData().transfer_batch_to_device(batch, torch.device("meta"), 0)
    model.training_step(batch, 0).backward()  # type: ignore[arg-type]
    assert _gradients(model.student)


def test_a_step_reads_no_value_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator `.item()`, `float` and `bool` wait until all that was asked for has been computed."""
    model = distiller()
    for name in KINDS:
        objective = make(name)
        objective.name = name.lower()
        model.bind_objective(objective)
    _attach(model, monkeypatch)
    model.training_step(_batch("cpu"), 0)  # (the first step learns which parameters are idle)
    operators: list[str] = []
    with watched(lambda operator: operators.append(str(operator))):
        model.training_step(_batch("cpu"), 0).backward()
    assert "aten.bmm.default" in operators
    assert not [name for name in operators if name.startswith(("aten._local_scalar_dense", "aten.nonzero"))]


def test_the_guard_against_values_that_are_not_finite_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdse.training.divergence.reading_is_free", lambda device: False)
    guard, model = SkipNonFinite(tmp_path), distiller()
    optimizer = torch.optim.Adam(model.parameters())
    trainer: Any = SimpleNamespace(
        global_step=0, log_every_n_steps=50, world_size=1, precision_plugin=None, strategy=None, optimizers=[optimizer]
    )
    guard.on_train_start(trainer, model)
    _attach(model, monkeypatch)
    operators: list[str] = []
    for _ in range(2):  # (the first step makes the optimizer's state)
        operators.clear()
        with watched(lambda operator: operators.append(str(operator))):
            guard.on_train_batch_start(trainer, model)
            loss = model.training_step(_batch("cpu"), 0)
            guard.on_before_backward(trainer, model, loss)
            loss.backward()
            guard.on_before_optimizer_step(trainer, model, optimizer)
            optimizer.step()
    assert any(name.startswith("aten._fused_adam_") for name in operators)
    assert not [name for name in operators if name.startswith(("aten._local_scalar_dense", "aten.nonzero"))]
