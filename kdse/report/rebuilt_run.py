"""The networks of a finished run, rebuilt from its folder: the teacher, and the student as it was before step 0."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch

from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.errors import UserError
from kdse.models.base import SpeechModel, Tap
from kdse.models.checkpoint import check_size, fingerprint, load_model, read_checkpoint
from kdse.pretrained import located
from kdse.run.folder import CONFIG, config_of, last_checkpoint
from kdse.taps import resolve_taps
from kdse.trust import NETWORKS, build, harmless, require_harmless

#: Arguments of `Enhancer` and `Distiller` that decide neither network nor taps.
NOT_NEEDED = {
    "loss", "optimizer", "lr_scheduler", "metrics", "metric_workers", "teacher_autocast", "compile",
    "compile_teacher", "balance_gradients", "balance_every",
}  # fmt: skip


class Pair(NamedTuple):
    """A teacher and a student with their taps."""

    teacher: SpeechModel
    teacher_taps: dict[str, Tap]
    student: SpeechModel
    student_taps: dict[str, Tap]


def rebuild(run_folder: str | Path, teacher_checkpoint: str | Path | None = None, trust_code: bool = False) -> Pair:
    """Both networks of a run of `kdse fit`, the student with the initial weights that it had.

    Built from config.yaml by the same code on the same random stream, so weights are bit-identical. The global random
    streams are as before afterwards.

    Args:
        run_folder: paths in its config start at the current folder, as they did for `kdse fit`.
        teacher_checkpoint: the teacher, if not the one that the config names (a run without a teacher names none).
        trust_code: allow the config to name classes that kdse does not ship.

    Raises:
        UserError: naming file and fix, if the config is missing or of another kind, a file it names is missing, the
            run had no seed, or the teacher is not the one that the run was trained under.
    """
    folder = Path(run_folder)
    config, source = config_of(folder), str(folder / CONFIG)
    section = config.get("model")
    if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
        raise UserError(f"{source}: missing, or not the config of a run; give a run folder of kdse fit")
    seed = config.get("seed_everything")
    if type(seed) is not int:
        raise UserError(f"{source}: seed_everything is {seed!r}, so initial weights are unknown; train with a seed")
    class_path, where = section["class_path"], f"{source}: model"
    ours = harmless(class_path if trust_code else require_harmless(class_path, where)) is not None
    init_args = section.get("init_args") or {}
    if not isinstance(init_args, dict):
        raise UserError(f"{source}: damaged (the arguments of its model are no mapping)")
    # (one of the user's may need them all)
    init_args = {name: value for name, value in init_args.items() if not (ours and name in NOT_NEEDED)}
    if "teacher_checkpoint" in init_args:
        if teacher_checkpoint is not None:
            init_args["teacher_checkpoint"] = os.fspath(teacher_checkpoint)
        path = init_args["teacher_checkpoint"]
        if isinstance(path, str) and not located(path).is_file():
            raise UserError(
                f"{source}: its teacher {path} is not there; run in the folder that it was trained from, or name the "
                "teacher's checkpoint"
            )
        init_args["trust_code"] = trust_code
    for name in () if trust_code else NETWORKS:
        if isinstance(init_args.get(name), dict):
            check_size(init_args[name], f"{where}.init_args.{name}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = build({**section, "init_args": init_args}, Enhancer, where, trust_code)
    if isinstance(module, Distiller):
        if teacher_checkpoint is None:
            _check_teacher(module.teacher, folder)
        return Pair(module.teacher, module.teacher_taps, module.student, module.student_taps)
    if teacher_checkpoint is None:
        raise UserError(f"{source}: this run had no teacher; name the checkpoint of the one to compare it with")
    teacher = load_model(teacher_checkpoint, trust_code)
    return Pair(teacher, resolve_taps(teacher), module.model, resolve_taps(module.model))


def _check_teacher(teacher: SpeechModel, folder: Path) -> None:
    if not last_checkpoint(folder).is_file():
        return
    stored = (read_checkpoint(last_checkpoint(folder)).get("kdse") or {}).get("teacher_sha256")
    if stored is not None and stored != fingerprint(teacher):
        raise UserError(
            f"{folder / CONFIG}: the teacher it names is not the one this run was trained under (it was trained "
            "again?); name the checkpoint of the right one"
        )
