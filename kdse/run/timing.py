"""The training cost of a run folder: seconds a step and in all, from `timing.csv`."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import NamedTuple

FILE = "timing.csv"
COLUMNS = ("start", "block", "timed", "mean_seconds", "median_seconds", "elapsed_seconds")


class StepCost(NamedTuple):
    """What a run cost: seconds an optimizer step (None if too short to tell), and seconds of training in all.

    seconds_per_step: without validation, checkpoints and the first steps; with waiting for data.
    training_seconds: wall time between the start and the end of training, of all starts of a resumed run together.
    steps_timed: how many steps the first is from.
    """

    seconds_per_step: float | None
    training_seconds: float
    steps_timed: int


def step_cost(run: str | Path, damaged: list[str] | None = None) -> StepCost | None:
    """What `StepTimes` measured in a run folder; None if it wrote nothing.

    The mean over steps, not their median: that would hide the costly phase of a two-step run and work that is done
    every few steps only. A step counts as five medians of its block of steps at most, so that a busy moment of the
    machine does little. Steps that a resume repeated count once. What cannot be read is left out, and named in
    ``damaged``.
    """
    blocks: dict[int, tuple[int, float]] = {}
    elapsed: dict[str, float] = {}
    try:
        with open(Path(run) / FILE, newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if len(row) != len(COLUMNS) or row[0] == COLUMNS[0]:
                    continue  # the header, or a line that was cut off by a kill
                try:
                    start, block, timed, mean, until = row[0], int(row[1]), int(row[2]), float(row[3]), float(row[5])
                except ValueError:
                    if damaged is not None:
                        damaged.append(f"{Path(run) / FILE}: line {number} is damaged and left out")
                    continue
                elapsed[start] = max(elapsed.get(start, 0.0), until)
                if timed > blocks.get(block, (0, 0.0))[0]:
                    blocks[block] = (timed, mean)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if damaged is not None:
            damaged.append(f"{Path(run) / FILE}: not readable ({error})")
        return None
    timed = sum(count for count, _ in blocks.values())
    total = math.fsum(count * mean for count, mean in blocks.values())
    return StepCost(total / timed if timed else None, math.fsum(elapsed.values()), timed)
