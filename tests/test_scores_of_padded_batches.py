"""Validation, test and prediction treat every item of a batch as if it were alone, whatever the batch size."""

from __future__ import annotations

import math

import pytest
import torch

import kdse.models
from kdse.data.batch import make_item, pad_batch
from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.losses import SiSdr
from kdse.models import Aligned, SpeechModel
from tests.deploy.export.tiny import MODELS, built

#: Two of one length among others; whole hops and not.
LENGTHS = (4000, 1600, 2917, 1600)
#: Models that run files or other people's toolkits, and recorded estimates.
NOT_BUILT = {"Asteroid", "DeepFilterNet", "DeepFilterNetNative", "Denoiser", "Onnx", "OnnxSpectral", "OnnxStream",
             "OnnxStudent", "Recorded", "RnNoise", "SpeechBrain", "SpeechModel", "Teachers", "TorchScript",
             "Wrapped"}  # fmt: skip


def items() -> list:
    generator = torch.Generator().manual_seed(0)
    made = []
    for index, samples in enumerate(LENGTHS):
        clean = 0.1 * torch.sin(0.05 * (index + 1) * torch.arange(samples)) * torch.rand(samples, generator=generator)
        noisy = clean + 0.03 * torch.randn(samples, generator=generator)
        made.append(make_item(noisy, clean, math.nan, f"item{index}", index))
    return made


def model_of(name: str) -> SpeechModel:
    return Aligned(built("manner"), delay_samples=3, gain=1.0) if name == "aligned" else built(name)


def scored(module: Enhancer, batch_size: int) -> dict[str, float]:
    """What a test of the items logs in batches of a size; no Trainer, which only carries the batches."""
    with torch.no_grad():
        for start in range(0, len(LENGTHS), batch_size):
            module.test_step(pad_batch(items()[start : start + batch_size]), start)
    return {"loss": module._losses.compute(), **module.scores.compute()}


@pytest.mark.parametrize("name", [*MODELS, "aligned"])
def test_an_estimate_in_a_padded_batch_is_that_of_the_item_alone_and_so_are_its_scores(name):
    model = model_of(name)
    module = Enhancer(model, SiSdr(), metrics=["si_sdr"]).eval()
    with torch.no_grad():
        together = module.predict_step(pad_batch(items()), 0)
        for item, estimate in zip(items(), together, strict=True):
            samples = item["noisy"].numel()
            assert torch.allclose(estimate[:samples], model(item["noisy"][None]).waveform[0], atol=1e-6)
            assert not estimate[samples:].any()
    assert scored(module, 4) == pytest.approx(scored(module, 1), abs=1e-4)


def test_a_teacher_too_is_scored_on_every_item_alone():
    module = Distiller(built("manner"), student=built("cruse"), loss=SiSdr(), metrics=["si_sdr"]).eval()
    together, alone = scored(module, 4), scored(module, 1)
    assert together == pytest.approx(alone, abs=1e-4) and not math.isnan(together["teacher_si_sdr"])


def test_no_shipped_model_is_left_out():
    shipped = {
        name for name in kdse.models.__all__
        if isinstance(cls := getattr(kdse.models, name), type) and issubclass(cls, SpeechModel)
    }  # fmt: skip
    assert shipped - NOT_BUILT == {type(model_of(name)).__name__ for name in (*MODELS, "aligned")}
