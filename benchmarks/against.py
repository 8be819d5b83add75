"""Steps of this code against those of an earlier commit, in one process.

    python benchmarks/against.py [--base e515e5e] [--rounds 6] [--json FILE]

Targets, one thread, 16 x 2 s, ratios of medians of interleaved turns: a supervised step of the 62k student at most
0.55 times that of the base, a step of the first phase of two-step (1.9M teacher, per-bin Grams, student) at most 0.6.
The base is the code before the layers got training forms of their own; it is read from the history of this checkout
into build/against. The two take turns of five steps, so that each finds its own tensors in the cache, and both keep
freed memory as `kdse fit` does now (the base did not: that gain is not counted). Times are CPU time of the thread,
which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from kdse.machine.memory import keep_freed_memory

ROOT = Path(__file__).resolve().parent.parent
BASE = "e515e5e"
TURN = 5
STUDENT = [8, 16, 32, 32]
BARS = {"supervised step": 0.55, "first phase of two-step": 0.6}


def checkout(commit: str) -> Path:
    """Folder with kdse as it was in a commit."""
    folder = ROOT / "build" / "against" / commit
    if not (folder / "kdse").exists():
        archive = subprocess.check_output(["git", "-C", str(ROOT), "archive", commit, "kdse"])
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
    return folder


def steps(root: Path, **adam: Any) -> dict[str, Callable[[], float]]:
    """The steps of the kdse in a folder, each a function that makes one and returns its loss. adam: settings."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "kdse"]:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        from kdse.losses import PhaseSensitive
        from kdse.models import Cruse
        from kdse.objectives import SimilarityPreserving
        from kdse.taps import TapRecorder
    finally:
        sys.path.remove(str(root))
    assert Path(sys.modules["kdse"].__file__ or "").is_relative_to(root)
    torch.manual_seed(0)
    teacher, student = Cruse().eval().requires_grad_(False), Cruse(channels=STUDENT)
    loss, objective = PhaseSensitive(), SimilarityPreserving()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4, **adam)
    clean = 0.05 * torch.randn(16, 32000)
    noisy = clean + 0.05 * torch.randn(16, 32000)

    def update(total: Any) -> float:
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        return float(total.detach())

    def supervised() -> float:
        return update(loss(student(noisy), clean, noisy))

    def distilled() -> float:
        theirs, ours = TapRecorder(teacher, teacher.taps()), TapRecorder(student, student.taps())
        with torch.no_grad(), theirs:
            teacher(noisy)
        with ours:
            student(noisy)
        return update(objective.compare(list(theirs.activations().values()), list(ours.activations().values())))

    return {"supervised step": supervised, "first phase of two-step": distilled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=BASE, help="a commit")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, default=None, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    works = {"base": steps(checkout(arguments.base)), "now": steps(ROOT, fused=True)}  # (which `kdse fit` sees to)
    rows: dict[str, Any] = {}
    for step, bar in BARS.items():
        times: dict[str, list[float]] = {side: [] for side in works}
        losses = {side: work[step]() for side, work in works.items()}
        if abs(losses["now"] - losses["base"]) > 1e-3 * abs(losses["base"]):
            sys.exit(f"{step}: losses {losses}: the two do not compute the same")
        for _ in range(arguments.rounds):
            for side, work in works.items():
                for count in range(TURN + 1):
                    start = time.thread_time()
                    work[step]()
                    if count:  # the first finds the other's tensors in the cache
                        times[side].append(time.thread_time() - start)
        medians = {side: statistics.median(values) for side, values in times.items()}
        ratio = medians["now"] / medians["base"]
        rows[step] = {**{f"{side}_ms": 1e3 * value for side, value in medians.items()}, "ratio": ratio, "bar": bar}
        print(f"{step:<26}{1e3 * medians['base']:8.1f} ms -> {1e3 * medians['now']:6.1f} ms: {ratio:.3f} (bar {bar})")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
