"""Processor seconds that kdse takes to start, beside importing torch and Lightning, and to the first optimizer step.

    python benchmarks/start.py [--repeats 3]

Targets, on an idle machine: `kdse fit --help` 3 s, `kdse fit` to its first step 6 s, `kdse enhance` of a file of 3 s
2 s. Prints medians of user and system time of processes that run in turns, and their ratio to
``python -c "import torch, lightning"`` in the same run, which is what to compare between machines.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

CONFIG = """
model:
  class_path: kdse.Distiller
  init_args: {teacher_checkpoint: cruse-62k, compression: 4}
objectives: {gram: {class_path: kdse.objectives.SimilarityPreserving}}
schedule: {class_path: kdse.schedule.TwoStep, init_args: {distil_fraction: 0.25}}
data:
  class_path: kdse.data.PairedFolders
  init_args: {noisy: noisy, clean: clean, train_noisy: noisy, train_clean: clean, valid_share: 0.2, batch_size: 8}
trainer: {num_sanity_val_steps: 0}
"""
KDSE = "import sys; from kdse.cli import main; sys.exit(main(sys.argv[1:]))"
#: Ends the process at the end of the first optimizer step.
FIRST_STEP = """
import os, sys, torch
from kdse.cli import main
step = torch.optim.Adam.step
torch.optim.Adam.step = lambda self, *a, **k: (step(self, *a, **k), os._exit(0))
sys.exit(main(sys.argv[1:]))
"""


def seconds(command: list[str], folder: Path) -> float:
    """User and system time of a command and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), np.random.default_rng(0)
        for number, kind in ((n, kind) for n in range(16) for kind in ("noisy", "clean")):
            (folder / kind).mkdir(exist_ok=True)
            soundfile.write(folder / kind / f"p{number}.wav", 0.1 * rng.standard_normal(48000), 16000)
        (folder / "fit.yaml").write_text(CONFIG)
        python = [sys.executable, "-c"]
        commands = {
            "import torch, lightning": [*python, "import torch, lightning"],
            "kdse fit --help": [*python, KDSE, "fit", "--help"],
            "kdse fit, to its first step": [*python, FIRST_STEP, "fit", "--config", "fit.yaml"],
            "kdse enhance, 3 s": [*python, KDSE, "enhance", "noisy/p0.wav", "--overwrite"],
            "kdse enhance, 3 s, torch": [*python, KDSE, "enhance", "noisy/p0.wav", "--overwrite", "--backend", "torch"],
        }
        taken: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(repeats):
            for label, command in commands.items():
                taken[label].append(seconds(command, folder))
    medians = {label: statistics.median(times) for label, times in taken.items()}
    for label, median in medians.items():
        print(f"{label:<30} {median:5.2f} s   x {median / medians['import torch, lightning']:.2f}")


if __name__ == "__main__":
    main()
