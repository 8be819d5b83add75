"""`--model.compile` changes time and nothing else: values, gradients, checkpoints and resumed runs are the eager ones."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

import kdse.compiling
from kdse.compiling import CompiledNetwork
from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.internals.torch import compiled_graphs
from kdse.models import Cruse
from kdse.models.checkpoint import fingerprint
from kdse.objectives import Hint, SimilarityPreserving
from kdse.schedule import Joint, TwoStep
from kdse.taps import record
from tests.toys import ToyData, make_student, make_teacher, make_trainer


@pytest.fixture(autouse=True)
def everything_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As on a GPU: all that was compared, whether it pays on a CPU or not; the cache is that of this test run."""
    monkeypatch.setattr(kdse.compiling, "PAYS", 10.0)
    monkeypatch.setattr(kdse.compiling, "BACKEND", "aot_eager")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))


def run(folder: Path, compile: bool, steps: int = 6, **arguments) -> Distiller:
    torch.manual_seed(0)
    model = Distiller(
        teacher=make_teacher,
        student=make_student,
        metrics=["si_sdr"],
        optimizer=lambda p: torch.optim.Adam(p, lr=1e-3),
        compile=compile,
        **arguments,
    )
    callbacks = [SimilarityPreserving(), Hint(pairs="bottleneck"), TwoStep(distil_steps=3)]
    make_trainer(folder, callbacks, max_steps=steps).fit(model, ToyData())
    return model
def test_x(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="kdse")
    import time
    a=time.time(); one=run(tmp_path,True); print(time.time()-a)
    two=run(tmp_path,False)
    print(caplog.text)
    print({k:(v-one.state_dict()[k]).abs().max().item() for k,v in two.state_dict().items()})
    assert 0
