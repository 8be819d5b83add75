"""`kdse fit --help`: what one can choose and the settings that most runs set, on two screens."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import lightning as L
import torch

from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.internals.jsonargparse import parameters
from kdse.models import SpeechModel
from kdse.objectives import Objective
from kdse.run.setting_types import choices, resolve
from kdse.schedule import Schedule

WIDTH = 119
NAME_WIDTH = 35
#: Settings of Lightning's Trainer that most runs set (our choice).
TRAINER = (
    "max_steps", "max_epochs", "accelerator", "devices", "precision", "accumulate_grad_batches", "gradient_clip_val",
    "check_val_every_n_epoch", "limit_val_batches", "callbacks",
)  # fmt: skip
#: The same of the commands that do not train.
TRAINER_ELSEWHERE = ("accelerator", "devices", "precision")


def text(command: str, about: str, flags: Iterable[tuple[str, Any, Any, str]]) -> str:
    """The short help of ``fit``, ``validate``, ``test`` or ``predict``.

    Args:
        command: which of them.
        about: what it does, in a line.
        flags: `kdse.training.cli.FLAGS`.
    """
    fitting = command == "fit"
    used = [flag for flag in flags if fitting or flag[0] in ("run_dir", "wandb", "wandb_project")]
    lines = [
        f"usage: kdse {command} [--config FILE]... [--NAME=VALUE]...   {about}",
        "",
        "A setting is a key of a YAML file or a dotted flag; later ones win, flags over files before them.",
        "",
        "classes to choose from (of your own: any class path; `--KEY.help CLASS` lists the settings of one):",
        *_described("--model CLASS", (Enhancer,)),
        *_described("--data CLASS", (L.LightningDataModule,)),
        *_named("--model.student CLASS", (SpeechModel,), "also --model.model of an Enhancer, --model.teacher"),
        *_named("--model.loss CLASS", (torch.nn.Module,)),
    ]
    if fitting:
        lines += [
            *_named("--objectives.NAME CLASS", (Objective,), "as many as you like, each under a name"),
            *_described("--schedule CLASS", (Schedule,)),
            *_named("--model.optimizer CLASS", (torch.optim.Optimizer,)),
            *_named("--model.lr_scheduler CLASS", (torch.optim.lr_scheduler.LRScheduler,)),
        ]
    lines += ["", "settings of the model:"]
    taken = {name: p.about for name, p in parameters(Distiller).items()}
    classes = ("student", "teacher", "loss", "optimizer", "lr_scheduler")
    chosen = [n for n in taken if n not in classes] if fitting else ["teacher_checkpoint", "metrics", "metric_workers"]
    lines += [_setting(f"--model.{n}", taken[n]) for n in chosen]
    lines += ["", "settings of the run:"]
    lines += [_setting("--seed_everything N", "Seed of all random numbers; 0 if nothing is said.")]
    lines += [_setting("--ckpt_path FILE", f"Checkpoint to {'go on' if fitting else 'take weights'} from.")]
    lines += [_setting(f"--{name}", what) for name, _, _, what in used if name not in ("objectives", "schedule")]
    lines += ["", "settings of Lightning's Trainer:"]
    trainer = parameters(L.Trainer)
    lines += [_setting(f"--trainer.{n}", trainer[n].about) for n in (TRAINER if fitting else TRAINER_ELSEWHERE)]
    return "\n".join(
        [
            *lines,
            "",
            f"all settings:   kdse {command} --help-all",
            f"of one class:   kdse {command} --data.help kdse.data.Mixtures",
            f"as they stand:  kdse {command} --config FILE --print_config",
        ]
    )


def _setting(name: str, about: str) -> str:
    first = " ".join(about.split()).partition(". ")[0].rstrip(".")
    room = WIDTH - NAME_WIDTH - 3
    return f"  {name:<{NAME_WIDTH}} {textwrap.shorten(first, room, placeholder=' ...')}".rstrip()


def _described(name: str, bases: tuple[type, ...]) -> Iterator[str]:
    """One line a class, with the first line of its docstring."""
    for path in sorted(choices(bases)):
        about = (inspect.getdoc(resolve(path, bases)[0]) or "").splitlines()[0]
        yield _setting(name, f"{path}: {about}")
        name = ""


def _named(name: str, bases: tuple[type, ...], about: str = "") -> Iterator[str]:
    """The names of classes, in as many lines as they take."""
    paths = choices(bases)
    home = paths[0].rpartition(".")[0]
    names = f"{home}: {', '.join(path.rpartition('.')[2] for path in paths)}{f' ({about})' if about else ''}"
    for line in textwrap.wrap(names, WIDTH - NAME_WIDTH - 3):
        yield f"  {name:<{NAME_WIDTH}} {line}"
        name = ""
