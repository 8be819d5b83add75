"""What a training step on a taught set costs beside a supervised one, as a ratio within one run.

    python benchmarks/taught.py [--rounds 40] [--batch 16] [--seconds 2]

Both train the 62k CRUSE student on mixtures of KDSE_CORPUS (or of the embedded corpus), with a batch from the loader,
forward, loss, backward and an Adam step: one with the phase-sensitive loss to clean speech, the other with the same
loss to what a teacher made (`TaughtLoss`, nothing supervised). CPU time of one thread, rounds in turn. Target: at most
1.05. A step of the live teacher is measured as well.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from kdse.cli import main as kdse
from kdse.data import Mixtures, SyntheticCorpus
from kdse.distiller import Distiller
from kdse.losses import PhaseSensitive
from kdse.models import Cruse, Recorded, SpeechModel
from kdse.objectives import TaughtLoss
from kdse.pretrained import find

CHANNELS = [8, 16, 32, 32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"batch_size": arguments.batch, "segment_seconds": arguments.seconds, "steps_per_epoch": 10, "seed": 0}
    module = Mixtures if os.environ.get("KDSE_CORPUS") else SyntheticCorpus
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "run.yaml", Path(folder) / "set"
        data = {"class_path": f"kdse.data.{module.__name__}", "init_args": settings}
        config.write_text(yaml.safe_dump({"data": data}))
        assert kdse(["teach", "cruse-62k", "--config", str(config), "--out", str(out), "--workers", "0"]) == 0
        live = stepper(module(**settings), live_teacher())
        steps = {"supervised": stepper(module(**settings), None), "live teacher": live}
        steps["taught set"] = stepper(module(**settings, taught_set=str(out)), Recorded())
        times: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(arguments.rounds + 3):
            for name, step in steps.items():
                start = time.thread_time()
                step()
                if number >= 3:  # (the first rounds warm up)
                    times[name].append(time.thread_time() - start)
    for name, seconds in times.items():
        ratio = statistics.median(seconds) / statistics.median(times["supervised"])
        least = min(seconds) / min(times["supervised"])
        typical = 1e3 * statistics.median(seconds)
        print(f"{name:<14}{typical:>8.1f} ms a step, median ratio {ratio:.3f}, of least {least:.3f}")


def live_teacher() -> SpeechModel:
    """The teacher of the set."""
    from kdse.models.checkpoint import load_model

    return load_model(find("cruse-62k"))


def stepper(data: Mixtures, teacher: SpeechModel | None) -> Callable[[], None]:
    """A training step: batch, forward, loss, backward, optimizer."""
    torch.manual_seed(0)
    student, loss = Cruse(channels=CHANNELS), PhaseSensitive()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    loader = data.train_dataloader()
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    objective = TaughtLoss(loss=loss)
    distiller = None if teacher is None else Distiller(teacher=teacher, student=student, metrics=["si_sdr"])

    def step() -> None:
        batch = next(batches)
        if distiller is None:
            value = loss(student(batch["noisy"]), batch["clean"], batch["noisy"])
        else:
            value = objective.loss(distiller.exchange(batch, [objective]))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
