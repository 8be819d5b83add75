"""`make demo`: the main job of kdse on the embedded corpus, start to finish.

Trains a small teacher, then, on equal budgets, a student with clean speech alone, one with one-step KD and one with
two-step KD; scores all of them and the noisy input on held-out mixtures; ends with a table, plots and a page to
listen to.
Every step is an ordinary kdse command, printed before it runs. Run again after an interruption and it goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from kdse.run.folder import last_checkpoint
from kdse.sweeps.sequential_runs import Run, kdse, train

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIGS = REPOSITORY / "experiments" / "demo"
NOTE = (
    "This budget shows the machinery. It cannot rank methods: a few hundred steps from one seed, a weak teacher and\n"
    "synthetic speech. See experiments/README.md for what longer runs on real recordings gave."
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything the demo writes")
    parser.add_argument("--teacher-steps", type=int, default=500, help="optimizer steps of the teacher")
    parser.add_argument("--student-steps", type=int, default=500, help="optimizer steps of every student")
    parser.add_argument("--items", type=int, default=10, help="test mixtures at each SNR")
    parser.add_argument("--listen", type=int, default=12, help="files on the page to listen to")
    parser.add_argument("--workers", type=int, default=2, help="metric processes")
    arguments = parser.parse_args()
    if min(arguments.teacher_steps, arguments.student_steps) < 4 or arguments.items < 1:
        parser.error("--teacher-steps and --student-steps must be at least 4 and --items at least 1")

    started = time.time()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    run(["corpus", "build"])
    systems = ("teacher", "supervised", "one_step", "two_step")
    for name in systems:
        steps = arguments.teacher_steps if name == "teacher" else arguments.student_steps
        extra = [f"--model.teacher_checkpoint={last_checkpoint(out / 'teacher')}"] if name.endswith("step") else []
        fit(out / name, steps, extra)

    run(
        [
            "evaluate",
            *(f"{name}={last_checkpoint(out / name)}" for name in systems),
            "--synthetic",
            "--snr-db", "-5", "0", "5", "10",
            "--items", str(arguments.items),
            "--workers", str(arguments.workers),
            "--metrics", "si_sdr", "pesq_wb", "stoi", "estoi",
            "--save-audio", "2",
            "--overwrite",  # (scores of the same items, metrics and versions are kept)
            "--out", str(out / "scores"),
        ]
    )  # fmt: skip

    report = out / "report"
    run(["report", str(out), "--title", "kdse demo", "--listen", str(arguments.listen), "--out", str(report)])
    print(f"\n{NOTE}\n")
    print(f"report   {report / 'report.html'}   (open it in a browser: tables, plots, and all systems to listen to)")
    print(f"tables   {report / 'tables'} and {out / 'scores' / 'summary.md'}")
    print(f"plots    {report / 'figures'}")
    print(f"audio    {out / 'scores' / 'audio'}")
    print(f"student  {last_checkpoint(out / 'two_step')}   (try: kdse enhance FILE --checkpoint ... --out DIR)")
    print(f"took     {(time.time() - started) / 60:.1f} minutes")
    return 0


def fit(folder: Path, steps: int, extra: list[str]) -> None:
    """Trains one system, goes on from its last checkpoint, or does nothing if it is finished."""
    configs = ["--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / f"{folder.name}.yaml")]
    flags = [*configs, f"--trainer.max_steps={steps}", *extra]
    run = Run(folder.name, folder, flags, {"steps": steps})
    stop_if_failed("fit", train([run], replace=("other",))[run.name])


def run(arguments: list[str]) -> None:
    """Runs one kdse command, showing it; a failure ends the demo with its exit code."""
    stop_if_failed(arguments[0], kdse(arguments))


def stop_if_failed(command: str, code: int) -> None:
    if code != 0:
        print(f"demo: `kdse {command}` ended with exit code {code}; run `make demo` again to go on", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("demo: interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
