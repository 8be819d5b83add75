"""The per-bin Gram objective over CRUSE's nine blocks, against the teacher's forward pass and a naive product.

    python benchmarks/gram.py [--batch 32] [--repeats 5]

Target: forward and backward at most 0.6 times the forward pass of the 1.9M teacher (62k student, 2 s items). Ratios of
medians of interleaved runs in one process, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kdse.models import Cruse
from kdse.objectives import SimilarityPreserving
from kdse.taps import TapRecorder

TARGET = 0.6


def naive(teacher: list[Tensor], student: list[Tensor]) -> Tensor:
    """Equation 1 as one would write it: permute to [t, f, b, c] and multiply broadcast matrices."""
    total = teacher[0].new_zeros(())
    for a, b in zip(teacher, student, strict=True):
        a, b = a.permute(2, 3, 0, 1), b.permute(2, 3, 0, 1)
        gap = (a @ a.transpose(-1, -2)) / a.shape[-1] - (b @ b.transpose(-1, -2)) / b.shape[-1]
        total = total + gap.square().mean()
    return total / len(teacher)


def activations(model: Cruse, noisy: Tensor) -> list[Tensor]:
    recorder = TapRecorder(model, model.taps())
    with torch.no_grad(), recorder:
        model(noisy)
    return list(recorder.activations().values())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    noisy = 0.1 * torch.randn(arguments.batch, 32000)
    teacher, student = Cruse().eval(), Cruse(channels=[8, 16, 32, 32])
    a = activations(teacher, noisy)
    b = [x.clone().requires_grad_() for x in activations(student, noisy)]
    objective = SimilarityPreserving()

    def forward() -> None:
        with torch.no_grad():
            teacher(noisy)

    works: dict[str, Callable[[], object]] = {
        "teacher forward": forward,
        "Gram forward and backward": lambda: torch.autograd.grad(objective.compare(a, b), b),
        "naive Gram forward and backward": lambda: torch.autograd.grad(naive(a, b), b),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(arguments.repeats + 1):
        for name, work in works.items():
            spent = seconds(work)
            if repeat > 0:  # the first round warms up
                times[name].append(spent)
    base = statistics.median(times["teacher forward"])
    for name, values in times.items():
        print(f"{name:<34} {statistics.median(values) * 1e3:9.1f} ms   {statistics.median(values) / base:6.2f} x")
    print(f"target: at most {TARGET} times the teacher's forward pass; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
