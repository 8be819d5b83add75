"""`kdse submit`: send a fit, or the workers of a sweep, to a SLURM cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdse.cluster.here import run_here
from kdse.cluster.launcher import script, submit
from kdse.cluster.request import Request, command_for
from kdse.cluster.task import Task
from kdse.commands.parser import Parser, at_least, underscored
from kdse.errors import UserError

DESCRIPTION = """\
Submits a kdse command to SLURM as a batch job that survives preemption and the time limit:

  kdse submit [options] -- fit --config my.yaml --run_dir runs/mine
  kdse submit [options] --workers 8 -- sweep FILE --out OUT

A fit gets one task for each GPU, the --trainer.devices and --trainer.num_nodes that go with them, and --resume=true.
Shortly before the time limit, or when it is preempted, kdse stops at a whole optimizer step, writes last.ckpt and
exits with code 75; the job is queued again and goes on in the same run folder, to the same weights. `scancel JOB` ends
it for good, `scancel --signal=USR1 JOB` stops and queues it again. A sweep is an array of workers that share OUT.
Also evaluate and compare can be submitted.
"""
EPILOG = """\
Submit from the folder that relative paths start from, on a disk that the nodes share. The jobs use the Python
environment that submits. --data.batch_size is that of one task. Scripts to read and change, without this command, are
in experiments/cluster/.

examples:
  kdse submit --dry-run --nodes 2 --gpus-per-node 4 --cpus-per-task 8 --time 240 -- fit --config my.yaml
  kdse submit --gpus-per-node 1 --partition short --set account=mine --setup 'module load cuda' -- fit --config my.yaml
  kdse submit --gpus-per-node 1 --workers 16 --array-parallelism 8 -- sweep my_sweep.yaml --out runs/my_sweep
  kdse submit --local -- fit --config experiments/quickstart.yaml
"""


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code, with --local that of what ran.

    Raises:
        ValueError: for a user's mistake.
    """
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments = _parser().parse_args(argv[:cut])
    request = _request(arguments)
    command = argv[cut + 1 :]
    task = Task(command_for(request, [*map(underscored, command)] if command[:1] == ["fit"] else command))
    if arguments.local:
        request.check_local()
        if arguments.dry_run:
            print(task)
            return 0
        request.make_log_dir()
        return run_here(request, task.arguments)
    if arguments.dry_run:
        print(f"{script(request)}\n# every task runs\n# {task}\n# nothing was submitted")
        return 0
    numbers = submit(request, task)
    job = numbers[0].partition("_")[0]
    logs = f"{job}_*_0_log.out" if len(numbers) > 1 else f"{job}_0_log.out"
    print(f"submitted job {job}{f' with {len(numbers)} workers' if len(numbers) > 1 else ''}: {task}")
    print(f"log {request.log_dir / logs}; watch with `squeue --job {job}`, end with `scancel {job}`")
    return 0


def _request(arguments: argparse.Namespace) -> Request:
    given = {k: v for k, v in vars(arguments).items() if v is not None and k not in ("local", "dry_run", "set")}
    given["setup"] = tuple(arguments.setup)
    return Request(**given, extra=dict(map(_setting, arguments.set)))


def _setting(text: str) -> tuple[str, str | bool]:
    name, equals, value = text.partition("=")
    name = name.removeprefix("--").replace("_", "-")
    if not name:
        raise UserError(f"--set {text}: write it as NAME=VALUE, a flag of sbatch without its dashes")
    return name, value if equals else True


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="kdse submit", description=DESCRIPTION, epilog=EPILOG)
    parser.allow_abbrev = False
    add, count = parser.add_argument, at_least(1)
    add("--nodes", type=count, metavar="N", help="nodes (default: 1)")
    add("--gpus-per-node", type=at_least(0), metavar="G", help="GPUs of each node (default: none)")
    add("--tasks-per-node", type=count, metavar="T", help="processes on each node (default: one for each GPU, or one)")
    add("--cpus-per-task", type=count, metavar="C", help="cores of a process: for itself and its data workers")
    add("--mem-gb", type=float, metavar="GB", help="memory of each node")
    add(
        "--time",
        type=count,
        dest="minutes",
        metavar="MINUTES",
        help="time limit of each start (default: 60, with --local none)",
    )
    add("--partition", metavar="NAME", help="partition of the cluster")
    add("--name", metavar="NAME", help="of the job (default: kdse)")
    add("--log-dir", type=Path, metavar="DIR", help="for scripts and logs (default: runs/submitted)")
    add("--signal-delay", type=count, dest="signal_delay_s", metavar="SECONDS",
        help="stop this long before the time limit: a step and a checkpoint must fit in (default: 120)")  # fmt: skip
    add("--workers", type=count, metavar="N", help="of a sweep: an array of so many jobs")
    add("--array-parallelism", type=count, metavar="K", help="how many of them run at a time (default: all)")
    add("--setup", action="append", default=[], metavar="LINE", help="shell line before the command; can be repeated")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="another flag of sbatch; can be repeated")
    add("--max-restarts", type=at_least(0), metavar="N", help="how often a job is queued again (default: 100)")
    add("--no-requeue", action="store_false", dest="requeue", default=None, help="leave a stopped job stopped")
    add("--local", action="store_true", help="run it here, without SLURM, and wait; a signal to this is one to it")
    add("--dry-run", action="store_true", help="print the batch script and the command; submit nothing")
    return parser
