"""Validations, tests and predictions on several processes (or one), for tests/test_ddp_evaluation.py.

``ddp_evaluation_run.py OUT``: writes OUT/found.json, what the processes reported and saw.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from kdse.data.paired import pad_batch
from kdse.data.position import ResumableData
from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.metrics.table import records, to_csv
from kdse.models import UNet
from kdse.models.checkpoint import fingerprint
from kdse.objectives import SimilarityPreserving
from kdse.schedule import Joint, TwoStep
from kdse.training.predictions import WritePredictions
from tests.toys import ToySet, make_student, make_teacher, make_trainer

BATCH = 2
#: Items of the test sets: one of them no multiple of anything, one with fewer batches than processes.
COUNTS = (7, 8, 2, 5)


class Lengths(ToySet):
    """Items of different lengths, so that a batch's padding depends on who is in it."""

    def __getitem__(self, index: Any) -> dict:
        item = super().__getitem__(index)
        samples = 2600 + 311 * ((5 * int(item["index"])) % 7)
        signals = {key: item[key][:samples] for key in ("noisy", "clean")}
        snr_db = torch.tensor([-5.0, 0.0, 5.0][int(item["index"]) % 3])
        return {**item, **signals, "samples": torch.tensor(samples), "snr_db": snr_db}


class SharedData(ResumableData):
    """kdse's own way to load, over toys."""

    sample_rate_hz = 16000

    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = items

    def train_dataloader(self) -> DataLoader:
        return self.loader(ToySet(24), batch_sampler=self.batches(12 // self.rank_and_world()[1], 2))

    def val_dataloader(self) -> DataLoader:
        return self.shared_loader(Lengths(self.items), BATCH, pad_batch)

    test_dataloader = predict_dataloader = val_dataloader


class PlainData(SharedData):
    """A user's loaders, who thought of one process."""

    def setup(self, stage: str) -> None:
        pass

    def train_dataloader(self) -> DataLoader:
        return DataLoader(ToySet(12), batch_size=2)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Lengths(self.items), batch_size=BATCH, collate_fn=pad_batch)

    test_dataloader = predict_dataloader = val_dataloader


class Watch(Callback):
    """Which items this process measured."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: dict, *_: Any) -> None:
        self.items += batch["index"].tolist()


class CountWrites(WritePredictions):
    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: Any, indices: Any, batch: dict, *_: Any
    ) -> None:
        super().write_on_batch_end(trainer, pl_module, prediction, indices, batch, *_)
        with open(self.folder.parent / f"written.{trainer.global_rank}", "a") as file:
            file.writelines(f"{name}\n" for name in batch["name"])


class Drift(Callback):
    """Gives each process other running statistics, as training on other items does, right before a validation."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        for name, buffer in pl_module.model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.05 * trainer.global_rank


def everyone(value: Any) -> list[Any]:
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def evaluate(out: str, model: Enhancer, data: L.LightningDataModule, **settings: Any) -> dict[str, Any]:
    """The table of a test, its loss and which process measured what."""
    watch = Watch()
    trainer = build(out, [watch], **settings)
    trainer.test(model, data, verbose=False)
    assert model.scores.summary is not None
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    tables = everyone([to_csv(records(model.scores.summary)), logged])
    assert all(table == tables[0] for table in tables), "the processes disagree"
    rows = [[row.system, row.name, row.values, row.snr_db] for row in model.scores.rows]
    return {"table": tables[0][0], "logged": logged, "rows": rows, "items": everyone(watch.items)}


def build(out: str, callbacks: list, **settings: Any) -> L.Trainer:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return make_trainer(out, callbacks, devices=world, strategy="ddp" if world > 1 else "auto", **settings)


def bf16_weights(out: str) -> str:
    """Fingerprint of a student distilled in bf16-mixed, its activations gathered from all processes."""
    model = distiller()
    trainer = build(out, [SimilarityPreserving(), TwoStep(distil_steps=2)], max_steps=3, precision="bf16-mixed")
    trainer.fit(model, SharedData(4))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    return fingerprint(model.student)


def error_of(action: Any) -> str:
    try:
        action()
    except ValueError as error:
        return str(error)
    return "no error"


class SaveWithScores(Callback):
    """Saves what was validated, once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows: dict[str, float] = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self.rows:
            trainer.save_checkpoint(self.path)
            self.rows = student_scores(pl_module)


def validated_while_training(out: str) -> dict[str, Any]:
    """What a validation in training says, and what the checkpoint saved with it scores on its own."""
    saver, rows = SaveWithScores(f"{out}/drift.ckpt"), {}
    # three micro-batches a step and a validation after two: DDP has not brought the buffers together by then
    trainer = build(out, [Drift(), saver], max_steps=1, limit_val_batches=1.0, val_check_interval=2,
                    accumulate_grad_batches=3)  # fmt: skip
    trainer.fit(normed(), SharedData(7))
    rows["during"] = saver.rows
    later = build(out, [], limit_val_batches=1.0)
    model = normed()
    later.validate(model, SharedData(7), ckpt_path=f"{out}/drift.ckpt", weights_only=True, verbose=False)
    rows["after"] = student_scores(model)
    return rows


def normed() -> Enhancer:
    """A model with running statistics."""
    torch.manual_seed(0)
    return Enhancer(model=lambda: UNet(channels=[4, 8]), metrics=["si_sdr"])


def student_scores(model: Enhancer) -> dict[str, float]:
    return {row.name: row.values["si_sdr"] for row in model.scores.rows if row.system == "student"}


def distiller() -> Distiller:
    torch.manual_seed(0)
    return Distiller(teacher=make_teacher, student=make_student, metrics=["si_sdr"])


def main(out: str) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    (Path(out) / "few").mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"sets": {str(n): evaluate(out, distiller(), SharedData(n)) for n in COUNTS}}
    found["limited"] = evaluate(out, distiller(), SharedData(7), limit_test_batches=3)
    found["plain"] = evaluate(out, distiller(), PlainData(5))
    found["lightnings"] = evaluate(out, distiller(), PlainData(5), use_distributed_sampler=True)
    build(out, [CountWrites(Path(out) / "predictions")]).predict(distiller(), SharedData(7), return_predictions=False)
    build(out, [CountWrites(Path(out) / "few" / "x")]).predict(distiller(), SharedData(2), return_predictions=False)
    found["training"] = validated_while_training(out)
    own = [Joint(0.0)]
    found["errors"] = {
        "own sampler": error_of(lambda: build(out, own, use_distributed_sampler=True).fit(distiller(), SharedData(4))),
        "plain training": error_of(lambda: build(out, own).fit(distiller(), PlainData(4))),
        "plain predict": error_of(lambda: build(out, []).predict(distiller(), PlainData(4))),
        "share": error_of(
            lambda: build(out, [], limit_test_batches=0.5).test(distiller(), SharedData(8), verbose=False)
        ),
    }
    found["bf16"] = everyone(bf16_weights(out))
    build(out, own, max_steps=1, use_distributed_sampler=True).fit(distiller(), PlainData(4))
    if int(os.environ.get("RANK", "0")) == 0:
        (Path(out) / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
