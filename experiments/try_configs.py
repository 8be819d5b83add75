"""`make try-configs`: every shipped config trains for two minutes, teachers first, on your recordings.

    python experiments/try_configs.py [--seconds 120] [--only mv_at methods/hint.yaml] [--out runs/try]

Needs KDSE_CORPUS (a folder with speech/ and noise/, each with train, valid and test). Batches of 4, no validation, so
that the largest teacher fits; configs for VoiceBank-DEMAND or a folder of noisy files get mixtures of that corpus
instead. Ends with a table of optimizer steps, seconds a step, first and last loss, and exit code 1 if any failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

from kdse.pretrained import names

EXPERIMENTS = Path(__file__).resolve().parent


def configs() -> list[Path]:
    """All experiments, those of teachers first. (A sweep file is none: it names experiments.)"""
    found = (p for p in EXPERIMENTS.rglob("*.yaml") if p.name != "base.yaml" and p.parent.name != "sweeps")
    return sorted(found, key=lambda p: (p.name != "teacher.yaml", p))


def load(path: Path) -> dict[str, Any]:
    """A config as plain data."""
    return yaml.safe_load(path.read_text())


def with_base(path: Path) -> list[Path]:
    """The files of a run: its folder's base.yaml, if there is one, and the config."""
    base = path.with_name("base.yaml")
    return [base, path] if base.exists() else [path]


def merged(path: Path, key: str) -> dict[str, Any]:
    """A top-level key of a config over its base: class_path and init_args."""
    found: dict[str, Any] = {"init_args": {}}
    for file in with_base(path):
        entry = load(file).get(key) or {}
        found = {**found, **entry, "init_args": {**found["init_args"], **entry.get("init_args", {})}}
    return found


def teacher_run(path: Path) -> str | None:
    """The run_dir of the teacher that a config needs, or None: it needs none, or one from the box."""
    checkpoint = merged(path, "model")["init_args"].get("teacher_checkpoint")
    return None if checkpoint is None or checkpoint in names() else checkpoint.removesuffix("/checkpoints/last.ckpt")


def small(path: Path, batch: int, data: dict[str, Any] | None, scratch: Path) -> list[str]:
    """`kdse fit` arguments that run a config on small batches, without validation.

    Args:
        path: the config.
        batch: items a batch, also for objectives whose heads have that size.
        data: another ``data`` key instead of the config's own, or None.
        scratch: folder for a file with it.
    """
    arguments = [part for file in with_base(path) for part in ("--config", str(file))]
    if data is not None:
        scratch.mkdir(parents=True, exist_ok=True)
        override = scratch / "data.yaml"
        override.write_text(yaml.safe_dump({"data": data}))
        arguments += ["--config", str(override)]
    arguments += [f"--data.batch_size={batch}", "--trainer.limit_val_batches=0", "--trainer.enable_model_summary=false"]
    for name, objective in (load(path).get("objectives") or {}).items():
        if "batch_size" in (objective.get("init_args") or {}):
            arguments.append(f"--objectives.{name}.batch_size={batch}")
    return arguments


def _losses(log: Any) -> Any:
    return log["train/loss"].dropna() if "train/loss" in log else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="training time of each")
    parser.add_argument("--only", nargs="+", default=None, help="folders or files of experiments/; teachers must exist")
    parser.add_argument("--out", type=Path, default=Path("runs/try"), help="run folders")
    arguments = parser.parse_args()
    if not os.environ.get("KDSE_CORPUS"):
        parser.error("set KDSE_CORPUS to a folder with speech/ and noise/")

    from kdse.run.log import training_log
    from kdse.run.timing import step_cost
    from kdse.sweeps.sequential_runs import Run, train

    failed, rows = [], []
    for path in configs():
        name = path.relative_to(EXPERIMENTS).as_posix()
        if arguments.only and not any(name == o or name.startswith(f"{o.rstrip('/')}/") for o in arguments.only):
            continue
        run_dir = arguments.out / name.removesuffix(".yaml")
        own = merged(path, "data")["class_path"].rpartition(".")[2]
        seconds = merged(path, "data")["init_args"].get("segment_seconds", 2.0)
        data = None
        if own in ("PairedFolders", "NoisyFolder"):
            data = {"class_path": "kdse.data.Mixtures", "init_args": {"segment_seconds": seconds}}
        limit = f"00:{arguments.seconds // 3600:02}:{arguments.seconds // 60 % 60:02}:{arguments.seconds % 60:02}"
        flags = [
            *small(path, 4, data, run_dir),
            f"--trainer.max_time={limit}",
            "--save_every_n_steps=20",
            "--trainer.log_every_n_steps=1",
        ]
        taught_by = teacher_run(path)
        if taught_by is not None:
            checkpoint = arguments.out / taught_by.removeprefix("runs/") / "checkpoints" / "last.ckpt"
            flags.append(f"--model.teacher_checkpoint={checkpoint}")
        run = Run(name, run_dir, flags, {"flags": flags})
        if train([run], replace=("other", "unfinished", "finished"))[name]:  # (each is to train with today's kdse)
            failed.append(name)
            continue
        losses, cost = _losses(training_log(run_dir)), step_cost(run_dir)
        step = "-" if cost is None or cost.seconds_per_step is None else f"{cost.seconds_per_step:.2f}"
        ends = f"{losses.iloc[0]:>12.4g}{losses.iloc[-1]:>12.4g}" if len(losses) else f"{'-':>12}{'-':>12}"
        rows.append(f"{name:<36}{len(losses):>8}{step:>10}{ends}")
    print("\n".join([f"\n{'config':<36}{'steps':>8}{'s a step':>10}{'first loss':>12}{'last loss':>12}", *rows]))
    for name in failed:
        print(f"{name:<36}  failed, see above")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
