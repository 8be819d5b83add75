"""`--model.compile` changes time and nothing else: values, gradients, checkpoints and resumed runs are the eager ones."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import kdse.compiling
import kdse.distiller
import kdse.enhancer
from kdse.compiling import Compiled
from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.internals.torch import compiled_graphs
from kdse.models import Cruse, SpeechModel
from kdse.models.base import Estimate, Tap
from kdse.models.checkpoint import fingerprint
from kdse.objectives import Hint, Objective, SimilarityPreserving
from kdse.schedule import Joint, TwoStep
from tests.test_distiller import StopAt
from tests.toys import ToyData, make_student, make_teacher, make_trainer


class Toy(SpeechModel):
    """A recurrence between two convolutions, with statistics of its own, in time domain."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv1d(1, channels, 64, stride=64), nn.BatchNorm1d(channels), nn.Tanh())
        self.gru = nn.GRU(channels, channels, batch_first=True)
        self.decoder = nn.ConvTranspose1d(channels, 1, 64, stride=64)

    def forward(self, noisy: Tensor) -> Estimate:
        x = self.encoder(noisy[:, None])
        return Estimate(self.decoder(x + self.gru(x.transpose(1, 2))[0].transpose(1, 2))[:, 0])

    def taps(self) -> dict[str, Tap]:
        return {"encoder": Tap("encoder", "b c t"), "gru": Tap("gru", "b t c")}


@pytest.fixture
def everything_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, and toys too; traced and differentiated as always, but with no compiler of kernels."""
    monkeypatch.setattr(kdse.compiling, "BACKEND", "aot_eager")
    monkeypatch.setattr(kdse.compiling, "why_eager", lambda *_, **__: None)
    monkeypatch.setattr(kdse.enhancer, "why_eager", lambda *_: None)
    monkeypatch.setattr(kdse.distiller, "why_eager", lambda *_: None)


def objectives() -> list[L.Callback]:
    return [SimilarityPreserving(), Hint(pairs=[["encoder", "encoder"]]).named("early"), TwoStep(distil_steps=3)]


def distil(folder: Path, compile: bool, callbacks: list[L.Callback], steps: int = 6, ckpt: Path | None = None, **more):
    """A trained Distiller, of toys unless told otherwise."""
    torch.manual_seed(0)
    settings = {key: more.pop(key) for key in ("accumulate_grad_batches", "enable_checkpointing") if key in more}
    networks = {"teacher": Toy(8), "student": Toy(4)}
    model = Distiller(
        **{**networks, "loss": kdse.losses.SiSdr(), "metrics": ["si_sdr"], **more},
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
        compile=compile,
    )
    trainer = make_trainer(folder, callbacks, max_steps=steps, **settings)
    trainer.fit(model, ToyData(), ckpt_path=None if ckpt is None else str(ckpt), weights_only=True)
    return model


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    return max(float((ours[k].double() - theirs[k].double()).abs().max()) for k in ours)


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 2}, {"balance_gradients": True, "balance_every": 2}],
    ids=["plain", "accumulated", "balanced"],
)
def test_a_compiled_run_reaches_the_weights_and_statistics_of_the_eager_one(settings, tmp_path, everything_compiles):
    schedule = [Joint(gamma=0.5)] if "balance_gradients" in settings else objectives()[-1:]
    eager, compiled = (distil(tmp_path, on, [*objectives()[:-1], *schedule], **settings) for on in (False, True))
    assert largest_difference(eager, compiled) < 1e-5
    assert not [m for m in compiled.student.modules() if "forward" in vars(m)]
