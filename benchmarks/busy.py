"""What a step of `kdse fit` costs beside one busy core, against the same on an idle machine.

    python benchmarks/busy.py [--steps 105] [--rounds 2]

Target: at most 1.3 times, default settings, on two cores (on Linux, runs on a larger machine are held to two). The 62k
student at 16 x 2 s on the embedded corpus, timed by the run itself (`timing.csv`), alone and beside a loop that never
rests, in turn. Needs a machine that is otherwise idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from kdse.machine.threads import VARIABLES
from kdse.run.timing import step_cost

FLAGS = [
    "--model=kdse.Enhancer", "--model.model=kdse.models.Cruse", "--model.model.channels=[8,16,32,32]",
    "--data=kdse.data.SyntheticCorpus", "--data.batch_size=16", "--data.segment_seconds=2",
    "--data.validation_items=2",
]  # fmt: skip


def seconds_per_step(count: int) -> float:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "kdse.cli", "fit", *FLAGS, f"--run_dir={folder}/run"]
        run = subprocess.run(
            [*command, f"--trainer.max_steps={count}"], env=environment, capture_output=True, text=True
        )
        if run.returncode:
            sys.exit(run.stderr)
        cost = step_cost(f"{folder}/run")
    if cost is None or cost.seconds_per_step is None:
        sys.exit("the run was too short to time its steps")
    return cost.seconds_per_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=105)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    alone, beside = [], []
    for _ in range(arguments.rounds):
        alone.append(seconds_per_step(arguments.steps))
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            beside.append(seconds_per_step(arguments.steps))
        finally:
            busy.kill()
            busy.wait()
    a, b = statistics.median(alone), statistics.median(beside)
    print(f"a step alone {1e3 * a:.0f} ms, beside one busy core {1e3 * b:.0f} ms: {b / a:.2f} times (target 1.3)")


if __name__ == "__main__":
    main()
