"""`kdse sweep`: run a sweep file in W&B's format on this machine, without an account."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from kdse.commands.parser import Parser
from kdse.errors import UserError
from kdse.machine.processes import KDSE, STOPPED
from kdse.sweeps.command import check_extra, fit_flags
from kdse.sweeps.conditions import conditions, file_part, in_flags
from kdse.sweeps.definition import Sweep, read_sweep

if TYPE_CHECKING:
    from kdse.sweeps.runner import Runner, Settings
    from kdse.sweeps.store import Store

DESCRIPTION = """\
Trains every point of a sweep file in W&B's format (grid, random or bayes; Hyperband), each in a process and a run
folder of its own, and puts them in one table with heat map and Pareto plot. The same FILE goes to W&B's server with
`wandb sweep FILE` and `wandb agent ID`; here nothing leaves the machine unless a flag says --wandb=online.

  kdse fit COMMAND_OF_FILE VALUES_OF_POINT --run_root=OUT/runs --resume=true --wandb=off [flags]

Each flag written as --name=VALUE that is none of those below goes to every point, after its values.

Run it again after an interruption: finished points are kept, the others go on from their last checkpoint. Start the
same command in other terminals or on other machines that share OUT: they join, and no point is trained twice. A worker
that is killed leaves its point to the next that asks. A point that fails is marked, with the last thing it said, and
the others go on, unless the first three are all refused as a mistake (exit code 2).
"""
EPILOG = """\
Ctrl-C or SIGTERM stops the runs at their next step, with a checkpoint; Ctrl-C again kills them.

Exit code: 0 no point failed, 1 some did, 75 stopped (run it again to go on), 2 a mistake.

Writes to OUT: runs/ (a folder each), logs/, sweep.csv, sweep.json, sweep.md, heat_map.png and pareto.png where the
sweep has what they show, and its storage: study.journal and locks/.

examples:
  kdse sweep experiments/sweeps/compression_x_snr.yaml --dry-run
  kdse sweep experiments/sweeps/compression_x_snr.yaml --workers 2
  kdse sweep experiments/sweeps/objective_weight.yaml --seed 1 --max-points 5
  kdse sweep experiments/sweeps/compression_x_snr.yaml --report-only
"""


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code.

    Raises:
        ValueError: for a user's mistake.
    """
    arguments, extra = _parser().parse_known_args(argv)
    sweep = read_sweep(arguments.file)
    check_extra(extra, [parameter.name for parameter in sweep.parameters])
    roots = [f"runs/sweeps/{sweep.path.stem}", *filter(None, in_flags(sweep.command, "run_root"))]
    out = arguments.out or Path(roots[-1])
    program = tuple(shlex.split(arguments.program)) if arguments.program else KDSE
    try:
        some = {p.name: p.settings.get("value", p.settings.get("values", [0])[0]) for p in sweep.parameters}
        flags = fit_flags(sweep.command, sweep.arguments(some))
    except ValueError as error:
        raise UserError(f"{sweep.path}: {error}") from None
    if arguments.workers < 1 or (arguments.max_points is not None and arguments.max_points < 1):
        raise UserError("--workers, --max-points: must be at least 1")

    if importlib.util.find_spec("optuna") is None:
        raise UserError("kdse sweep needs Optuna: pip install 'kdse[sweep]'")
    from kdse.sweeps.runner import Settings
    from kdse.sweeps.store import Store

    settings = Settings(
        out, program, tuple(extra), arguments.workers, arguments.max_points, not arguments.no_wait,
        () if arguments.dry_run or arguments.report_only else _gpus(arguments.workers),
    )  # fmt: skip
    if arguments.dry_run:
        return _show(sweep, settings, arguments.seed)
    if arguments.report_only:
        if not (out / "study_name").is_file():
            raise UserError(f"--report-only: {out} holds no sweep")
        # (the points of the file are looked at, whatever flags they were trained with)
        store = Store(sweep, out, arguments.storage, arguments.seed, {"file": file_part(sweep)})
        return _report(sweep, store, out, arguments.json)
    if sweep.points() is None and arguments.max_points is None:
        raise UserError(f"{sweep.path}: method {sweep.method} has no end; set run_cap in it, or give --max-points")
    definition = conditions(sweep, flags, extra, arguments.seed)
    store = Store(sweep, out, arguments.storage, arguments.seed, definition)
    if arguments.retry_failed:
        store.retry_failed()
    runner = _run(sweep, store, settings, sys.stderr if arguments.json else sys.stdout)
    if runner.stopping:
        again = shlex.join(["kdse", "sweep", *argv])
        print(f"stopped; go on with the same command:\n  {again}", file=sys.stderr)
        return STOPPED
    code = _report(sweep, store, out, arguments.json)
    return STOPPED if code == 0 and runner.interrupted else code


def _run(sweep: Sweep, store: Store, settings: Settings, stream: TextIO) -> Runner:
    """Works on the points until none is left or a signal comes; the `Runner` that did."""
    from kdse.sweeps.progress import Progress
    from kdse.sweeps.runner import Runner
    from kdse.sweeps.store import RUNS

    progress = Progress(sweep, settings.out / RUNS, stream)
    runner = Runner(sweep, store, settings, progress)
    try:
        with progress.live:
            runner.run()
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"--out {settings.out}: {why}; the same command goes on once that is mended") from None
    finally:
        store.close()
    return runner


def _report(sweep: Sweep, store: Store, out: Path, as_json: bool) -> int:
    from kdse.sweeps.report import write_report

    content = write_report(sweep, store.points(), out)
    failed = [point for point in content["points"] if point["state"] == "failed"]
    if as_json:
        print(json.dumps(content))
    else:
        print(content["text"])
    if failed:
        again = f"{len(failed)} failed; --retry-failed trains them again"
        print(again, file=sys.stderr if as_json else sys.stdout)
    return 1 if failed else 0


def _show(sweep: Sweep, settings: Settings, seed: int) -> int:
    """Prints the command lines of the points, as far as they can be told before there are results."""
    import optuna

    from kdse.sweeps.runner import fit_command
    from kdse.sweeps.store import sampler

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    total = sweep.points()
    if sweep.method == "grid":
        points = list(sweep.grid())
    else:
        study = optuna.create_study()
        points = []
        for number in range(min(5, total or 5)):
            study.sampler = sampler(sweep.method, seed, number)
            points.append(sweep.draw(study.ask()))
    for values in points:
        print(shlex.join(["kdse", *fit_command(sweep, settings, values)[len(settings.program) :]]))
    if len(points) != total:
        print(f"# and so on, {'until stopped' if total is None else f'{total} points'}", file=sys.stderr)
    return 0


def _gpus(workers: int) -> tuple[str, ...]:
    """GPUs to share out among workers, of those that the user chose if there is a choice; none if fewer than two."""
    if workers < 2:
        return ()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        # (asked in a process of its own: this one lives as long as the sweep, and needs no half gigabyte of torch)
        asked = subprocess.run(
            [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], capture_output=True, text=True
        )
        names = [str(number) for number in range(int(asked.stdout) if asked.returncode == 0 else 0)]
    else:  # (CUDA sees those before the first that is not there, such as -1)
        names = list(itertools.takewhile(lambda name: name not in ("", "-1"), map(str.strip, chosen.split(","))))
    return tuple(names) if len(names) > 1 else ()


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kdse sweep", description=DESCRIPTION, epilog=EPILOG)
    parser.allow_abbrev = False  # a fit flag must not pass for one of ours
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="sweep in W&B's format, such as those in experiments/sweeps")
    add("--out", type=Path, metavar="OUT", help="folder of the sweep (default: --run_root in FILE's command)")
    add("--workers", type=int, default=1, metavar="N", help="runs at once (default 1); with GPUs, each gets one")
    add("--max-points", type=int, metavar="N", help="begin or go on with so many points at most, then end")
    add("--seed", type=int, default=0, metavar="N", help="of the draws of random and bayes (default 0)")
    add(
        "--storage",
        metavar="URL",
        help="database for Optuna instead of a file in OUT, such as sqlite:///sweep.db; at every start",
    )
    add("--retry-failed", action="store_true", help="train failed points again (otherwise they stay failed)")
    add("--no-wait", action="store_true", help="end when nothing is left to begin, though others still train")
    add("--program", metavar="WORDS", help="what runs in place of kdse, such as 'srun --ntasks=1 kdse'")
    add("--dry-run", action="store_true", help="print the commands and stop")
    add("--report-only", action="store_true", help="make the tables and pictures again and stop")
    add("--json", action="store_true", help="print sweep.json instead of the table, everything else on stderr")
    return parser
