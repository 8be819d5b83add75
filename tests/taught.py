"""What the tests of taught sets share: a corpus with two teachers, `kdse teach` on it, and a short training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from kdse.cli import main
from kdse.data import Mixtures
from kdse.distiller import Distiller
from kdse.objectives import OutputDistillation
from kdse.schedule import Joint
from kdse.training import teaching
from tests.data.small_corpus import hiss, make_corpus, put, tone_and_pauses
from tests.tiny_run import save_model
from tests.toys import make_student, make_teacher, make_trainer

#: Of the set.
STEPS, BATCH, EPOCHS = 3, 4, 2
#: An untrained teacher answers noise: nothing can be measured on it.
AS_IT_IS = ["--delay-samples", "0", "--gain", "1", "--workers", "0"]
SETTINGS = {"snr_db": [0.0, 10.0], "segment_seconds": 0.5, "steps_per_epoch": STEPS, "batch_size": BATCH}
SETTINGS |= {"validation_items": 2, "validation_seconds": 0.5}


def config(folder: Path, **data: object) -> Path:
    module = {"class_path": "kdse.data.Mixtures", "init_args": {"root": str(folder / "corpus"), **SETTINGS, **data}}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"seed_everything": 5, "data": module}))
    return path


def teach(folder: Path, out: Path, *more: str, models: Sequence[str] = ("one",)) -> int:
    command = ["teach", *(f"{name}={folder / name}.ckpt" for name in models), "--config", str(folder / "run.yaml")]
    return main([*command, "--out", str(out), *AS_IT_IS, *more])


def make_folder(root: Path) -> Path:
    """A corpus, noisy and clean recordings, two teachers, and a set of the first on two epochs of mixtures."""
    make_corpus(root / "corpus", files=2)
    for i, seconds in enumerate((0.3, 0.7, 0.9, 0.5)):
        clean = tone_and_pauses(seconds, seed=i)
        put(root / "clean" / f"a/{i}.wav", clean, subtype="FLOAT")
        put(root / "noisy" / f"a/{i}.wav", clean + hiss(seconds, seed=i), subtype="FLOAT")
    save_model(make_teacher(), root / "one.ckpt")
    torch.manual_seed(1)
    save_model(make_student(), root / "two.ckpt")
    config(root)
    assert teach(root, root / "set", "--epochs", str(EPOCHS)) == 0
    return root


def mixtures(folder: Path, **settings: object) -> Mixtures:
    return Mixtures(**{"root": str(folder / "corpus"), **SETTINGS, "seed": 5, **settings})


def content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != teaching.LOCK}


def train(folder: Path, data: Mixtures, teacher: object, objective: object = None) -> torch.Tensor:
    torch.manual_seed(0)
    module = Distiller(
        teacher=teacher, student=make_student, metrics=["si_sdr"], optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )
    objective = objective or OutputDistillation(distance="l2")
    trainer = make_trainer(folder, [objective, Joint(1.0)], max_steps=STEPS * EPOCHS + 1, max_epochs=-1)
    trainer.fit(module, data)
    return torch.cat([p.detach().flatten() for p in module.student.parameters()])
