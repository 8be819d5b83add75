"""Stands in for `kdse`: `python -m tests.sweeps.fake_fit fit FLAGS` keeps a run folder as `kdse fit` does, at once.

A run takes `--steps` steps of `--pause` seconds; its score after a step is `--quality` x step. Every step it takes is a
line in trained.txt. `--crash=TEXT` ends it with exit code 3 after its first step.
`--refuse=TEXT` ends it with exit code 2 at once, those whose `--quality` is above `--refuse_above` where that is given.
It reads its flags as `kdse fit` does: of a repeated one the last counts. What says where it runs makes no other run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

WHERE = ("run_root", "resume", "wandb", "pause")


def main(words: list[str]) -> int:
    assert words[0] == "fit", words
    flags = dict(word[2:].split("=", 1) for word in words[1:])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    digest = hashlib.sha256(json.dumps({k: v for k, v in sorted(flags.items()) if k not in WHERE}).encode()).hexdigest()
    run = Path(flags["run_root"]) / f"{digest[:12]}-seed{flags.get('seed_everything', 0)}"
    run.mkdir(parents=True, exist_ok=True)
    print(f"run folder: {run}", flush=True)
    lock = open(run / "run.lock", "a")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"--run_dir {run}: another process trains in this folder", file=sys.stderr)
        return 2
    if "refuse" in flags and float(flags.get("quality", 1)) > float(flags.get("refuse_above", -1)):
        print(flags["refuse"], file=sys.stderr)
        return 2
    (run / "environment.json").write_text(json.dumps({k: v for k, v in os.environ.items() if k.endswith(("S", "ES"))}))
    if (run / "result.json").exists():
        return 0
    checkpoint = run / "step"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    metrics = scores(flags, step)
    while step < int(flags.get("steps", 3)):
        time.sleep(float(flags.get("pause", 0.02)))
        step += 1
        with open(run / "trained.txt", "a") as file:
            file.write(f"{step}\n")
        checkpoint.write_text(str(step))
        metrics = scores(flags, step)
        with open(run / "validations.jsonl", "a") as file:
            file.write(json.dumps({"step": step, "metrics": metrics}) + "\n")
        if "crash" in flags:
            print("Traceback (most recent call last):\n" + flags["crash"], file=sys.stderr)
            return 3
        if stopped:
            return 75
    result = {"state": "finished", "step": step, "seconds": 1.5, "metrics": metrics}
    (run / "result.json").write_text(json.dumps(result))
    return 0


def scores(flags: dict[str, str], step: int) -> dict[str, float]:
    score = float(flags.get("quality", 1)) * step
    return {"val/si_sdr": score, "val/si_sdr_improvement": score - 1}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
