"""What the framework costs: a distillation step against a hand-written loop, and a step after the switch.

    python benchmarks/step.py [--batch 32] [--steps 6] [--rounds 3]

Targets: a KD step of the 62k student under the 1.9M teacher (2 s items) takes at most 1.05 times a loop of teacher
forward, student forward and backward, the same loss and an optimizer step; after the switch a step takes at most 1.02
times a student-only step of the same loop. Ratios of medians of interleaved runs in one process, one
thread, batches in memory.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from kdse.distiller import Distiller
from kdse.losses import PhaseSensitive
from kdse.models import Cruse
from kdse.models.base import SpeechModel
from kdse.objectives import SimilarityPreserving
from kdse.schedule import Joint, TwoStep
from kdse.taps import TapRecorder

STUDENT = [8, 16, 32, 32]


class Clock(L.Callback):
    """Seconds between the starts of consecutive batches."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        self.end = time.perf_counter()

    def steps(self) -> list[float]:
        marks = [*self.starts, self.end]
        return [b - a for a, b in zip(marks[1:], marks[2:], strict=False)]  # the first step warms up


def batches(count: int, batch: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        clean = 0.05 * torch.randn(batch, 32000, generator=generator)
        made.append({"noisy": clean + 0.05 * torch.randn(batch, 32000, generator=generator), "clean": clean})
    return made


def by_hand(data: list[dict[str, Tensor]], teacher: SpeechModel | None) -> list[float]:
    """The loop one would write without a framework; teacher None is a student-only step."""
    student, loss = Cruse(channels=STUDENT), PhaseSensitive()
    objective = SimilarityPreserving()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    spent = []
    for item in data:
        start = time.perf_counter()
        if teacher is None:
            total = loss(student(item["noisy"]), item["clean"], item["noisy"])
        else:
            seen = TapRecorder(teacher, teacher.taps())
            with torch.no_grad(), seen:
                teacher(item["noisy"])
            ours = TapRecorder(student, student.taps())
            with ours:
                estimate = student(item["noisy"])
            gap = objective.compare(list(seen.activations().values()), list(ours.activations().values()))
            total = 0.5 * gap + 0.5 * loss(estimate, item["clean"], item["noisy"])
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        spent.append(time.perf_counter() - start)
    return spent[1:]


def by_kdse(data: list[dict[str, Tensor]], teacher: SpeechModel, callbacks: list[L.Callback]) -> list[float]:
    """The same under Lightning."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu", devices=1, max_steps=len(data), logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=5.0,
            default_root_dir=folder, callbacks=[*callbacks, clock],
        )  # fmt: skip

        def adam(parameters: Any) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=1e-4)

        student = Cruse(channels=STUDENT)
        module = Distiller(teacher=teacher, student=student, optimizer=adam, metrics=["si_sdr"])
        trainer.fit(module, DataLoader(data, batch_size=None))  # type: ignore[arg-type]  # (a list will do)
    return clock.steps()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data = batches(arguments.steps + 1, arguments.batch)
    teacher = Cruse().eval().requires_grad_(False)
    times: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        rounds = {
            "KD step by hand": lambda: by_hand(data, teacher),
            "KD step by kdse": lambda: by_kdse(data, teacher, [SimilarityPreserving(), Joint(gamma=0.5)]),
            "student-only step by hand": lambda: by_hand(data, None),
            "step after the switch by kdse": lambda: by_kdse(
                data, teacher, [SimilarityPreserving(), TwoStep(distil_steps=0)]
            ),
        }
        for name, work in rounds.items():
            times.setdefault(name, []).extend(work())
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, value in middle.items():
        print(f"{name:<32} {value * 1e3:9.1f} ms")
    print(f"KD step: {middle['KD step by kdse'] / middle['KD step by hand']:.3f} x the hand-written loop (target 1.05)")
    after = middle["step after the switch by kdse"] / middle["student-only step by hand"]
    print(f"after the switch: {after:.3f} x the student-only loop (target 1.02); {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
