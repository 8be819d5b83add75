"""Runs of `kdse fit` to be disturbed: their config, how they are started, and what two of them must agree in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from kdse.models.checkpoint import LAST
from kdse.run.folder import result
from kdse.run.log import validations
from tests.faults.harm import RANK, VARIABLE
from tests.tiny_run import write_config

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS_PER_EPOCH = 3
STEPS = 8


def make_config(folder: Path, **changes: Any) -> Path:
    """A two-step run of 8 steps in epochs of 3, with Adam, a learning rate that moves every epoch, and `Harm`."""
    folder.mkdir(parents=True, exist_ok=True)
    model = {
        "class_path": "kdse.Distiller",
        "init_args": {
            "teacher_checkpoint": str(folder / "teacher.ckpt"),
            "compression": 2.0,
            "metrics": ["si_sdr"],
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-2}},
            "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.ExponentialLR", "init_args": {"gamma": 0.5}},
        },
    }
    trainer = {
        "max_steps": STEPS, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False,
        "log_every_n_steps": 1, "num_sanity_val_steps": 0, "callbacks": [{"class_path": "tests.faults.harm.Harm"}],
    }  # fmt: skip
    data = {"class_path": "tests.toys.ToyData", "init_args": {"items": 12, "validation_items": 4}}
    return write_config(folder, **{"switch": 4, "data": data, "model": model, "trainer": trainer, **changes})


def fit(
    config: Path,
    run_dir: Path,
    *flags: str,
    harm: str = "",
    rank: int | None = None,
    prefix: tuple[str, ...] = (),
    cwd: Path = REPOSITORY,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """`kdse fit --resume=true` into ``run_dir`` in a process of its own; ``prefix`` replaces the interpreter."""
    left = ("PL_GLOBAL_SEED", "WANDB_SERVICE", VARIABLE, RANK)  # (a W&B service would be this process's)
    variables = {k: v for k, v in os.environ.items() if k not in left}
    variables |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", VARIABLE: harm}
    if rank is not None:
        variables[RANK] = str(rank)
    command = [*(prefix or (sys.executable, "-m", "kdse.cli")), "fit", "--config", str(config)]
    command += [f"--run_dir={run_dir}", "--resume=true", *flags]
    environment = variables | environment
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def assert_same_end(run_dir: Path, undisturbed: Path) -> None:
    """Weights, optimizer, learning rate, result and every validation are those of the other run, bit for bit."""
    ours, theirs = (torch.load(folder / "checkpoints" / LAST, weights_only=True) for folder in (run_dir, undisturbed))
    assert ours["global_step"] == theirs["global_step"]
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_equal(ours[part], theirs[part], part)
    best, best_of_theirs = (
        torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True) for folder in (run_dir, undisturbed)
    )
    assert best["global_step"] == best_of_theirs["global_step"], (best["global_step"], best_of_theirs["global_step"])
    assert_equal(best["state_dict"], best_of_theirs["state_dict"], "best")
    assert {**result(run_dir), "seconds": 0} == {**result(undisturbed), "seconds": 0}
    assert validations(run_dir) == validations(undisturbed)


def assert_equal(a: Any, b: Any, where: str) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_equal(one, other, f"{where}[{number}]")
    else:
        assert a == b, where
