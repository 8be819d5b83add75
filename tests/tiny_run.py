"""A two-step run of `kdse fit` that takes a second: the toys' networks and data through the real command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from kdse.models.base import SpeechModel
from kdse.models.checkpoint import describe
from tests.toys import make_teacher


def save_model(model: SpeechModel, path: Path) -> Path:
    """A checkpoint of a model that was not trained."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "kdse": describe(model)}, path)
    return path


def write_config(folder: Path, steps: int = 4, switch: int = 2, **changes: Any) -> Path:
    """A config whose run lands in ``folder / "run"``; ``changes`` replace whole top-level keys."""
    teacher = save_model(make_teacher(), folder / "teacher.ckpt")
    settings = {
        "seed_everything": 5,
        "data": {"class_path": "tests.toys.ToyData", "init_args": {"items": 12, "validation_items": 2}},
        "model": {
            "class_path": "kdse.Distiller",
            "init_args": {"teacher_checkpoint": str(teacher), "compression": 2.0, "metrics": ["si_sdr"]},
        },
        "objectives": {"gram": {"class_path": "kdse.objectives.SimilarityPreserving"}},
        "schedule": {"class_path": "kdse.schedule.TwoStep", "init_args": {"distil_steps": switch}},
        "trainer": {"max_steps": steps, "accelerator": "cpu", "enable_progress_bar": False,
                    "enable_model_summary": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0},
        "save_every_n_steps": 1,
        "example_every_n_validations": 0,
        "run_dir": str(folder / "run"),
        **changes,
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
