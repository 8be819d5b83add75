"""What each objective costs in time and memory, as ratios within one run.

    python benchmarks/objectives.py [--batch 32] [--rounds 3] [--only hint cosine ...] [--json FILE]

Every config of experiments/methods is one row, in a process of its own: the 62k CRUSE student under the 1.9M teacher
(2 s items), batches in memory, no Lightning. A step is: teacher forward, student forward, supervised loss, the
config's objectives, backward. The reference, measured in turn with it, is what any distillation needs at least: a
supervised step (student forward, loss, backward) plus the teacher's forward. A supervised step alone is measured as
well. Memory is the peak of the process beyond what it held with both networks and the batch loaded. Target: at most
2.5 times the reference's time.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

METHODS = Path(__file__).resolve().parent.parent / "experiments" / "methods"
OTHERS = ("base", "supervised", "labels_")  # files that add no objective of their own
CHANNELS = [8, 16, 32, 32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=None, help="names of experiments/methods")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows to this file")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; None keeps torch's own choice")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.batch, arguments.rounds, arguments.threads)))
        return
    known = sorted(p.stem for p in METHODS.glob("*.yaml") if not p.stem.startswith(OTHERS))
    unknown = sorted(set(arguments.only or []) - set(known))
    if unknown:
        parser.error(f"--only {unknown[0]}: there are {', '.join(known)}")
    print(
        f"{'objective':<24}{'step s':>9}{'reference s':>13}{'ratio':>8}{'x superv.':>11}{'memory MiB':>12}"
        f"{'head params':>14}",
        flush=True,
    )
    rows = []
    for name in arguments.only or known:
        command = [sys.executable, __file__, "--one", name, "--batch", str(arguments.batch)]
        command += ["--rounds", str(arguments.rounds)]
        command += ["--threads", str(arguments.threads)] if arguments.threads else []
        row = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
        rows.append(row)
        print(
            f"{name:<24}{row['step_s']:>9.2f}{row['reference_s']:>13.2f}{row['ratio']:>8.2f}{row['vs_supervised']:>11.2f}"
            f"{row['memory_mib']:>12.0f}{row['head_parameters']:>14,}",
            flush=True,
        )
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1))
    slow = [row["name"] for row in rows if row["ratio"] > 2.5]
    print(f"{len(rows) - len(slow)} of {len(rows)} within 2.5; {rows[0]['threads']} threads; above: {', '.join(slow)}")


def measure(name: str, batch: int, rounds: int, threads: int | None) -> dict[str, Any]:
    """One row, in this process."""
    import torch
    from torch import Tensor

    from kdse.distiller import Distiller
    from kdse.losses import PhaseSensitive
    from kdse.models import Cruse, count_parameters

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = Distiller(teacher=Cruse(), student=Cruse(channels=CHANNELS), metrics=["si_sdr"])
    objectives = load(name, batch)
    for objective in objectives:
        module.bind_objective(objective)
    clean = 0.05 * torch.randn(batch, 32000)
    noisy = clean + 0.05 * torch.randn(batch, 32000)
    loss = PhaseSensitive()
    held = peak_mib()

    def reference() -> None:
        with torch.no_grad():
            module.teacher(noisy)
        value: Tensor = loss(module.student(noisy), clean, noisy)
        value.backward()

    def supervised() -> None:
        value: Tensor = loss(module.student(noisy), clean, noisy)
        value.backward()

    def step() -> None:
        exchange = module.exchange({"noisy": noisy, "clean": clean}, objectives)
        total = loss(exchange.student, clean, noisy)
        for objective in objectives:
            exchange.heads = module.heads_of(objective)
            total = total + objective.loss(exchange)
        total.backward()

    times: dict[str, list[float]] = {"supervised": [], "reference": [], "step": []}
    for number in range(rounds + 1):
        for label, work in (("supervised", supervised), ("reference", reference), ("step", step)):
            start = time.perf_counter()
            work()
            if number:  # the first round warms up
                times[label].append(time.perf_counter() - start)
    ratios = [b / a for a, b in zip(times["reference"], times["step"], strict=True)]
    return {
        "name": name,
        "step_s": statistics.median(times["step"]),
        "reference_s": statistics.median(times["reference"]),
        "ratio": statistics.median(ratios),
        "vs_supervised": statistics.median(b / a for a, b in zip(times["supervised"], times["step"], strict=True)),
        "memory_mib": peak_mib() - held,
        "head_parameters": count_parameters(module.heads),
        "threads": torch.get_num_threads(),
    }


def load(name: str, batch: int) -> list[Any]:
    """The objectives of a config, their batch size set to this one."""
    import importlib

    import yaml

    made = []
    for key, entry in yaml.safe_load((METHODS / f"{name}.yaml").read_text())["objectives"].items():
        module, _, cls = entry["class_path"].rpartition(".")
        arguments = {name: built(value) for name, value in (entry.get("init_args") or {}).items()}
        if "batch_size" in arguments:
            arguments["batch_size"] = batch
        objective = getattr(importlib.import_module(module), cls)(**arguments)
        objective.name = key
        made.append(objective)
    return made


def built(value: Any) -> Any:
    """The loss that an argument names; any other argument as it is."""
    import importlib

    if not isinstance(value, dict) or "class_path" not in value:
        return value
    module, _, cls = value["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), cls)(**(value.get("init_args") or {}))


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
