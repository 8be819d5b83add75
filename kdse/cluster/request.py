"""`Request`: the resources of a job, and the kdse command that fits them; contradictions are the user's mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdse.errors import UserError

#: Commands that can be submitted. All go on where they were when they are started again.
COMMANDS = ("fit", "sweep", "evaluate", "compare")
DEFAULT_MINUTES = 60
#: sbatch flags that have a flag of `kdse submit`, or that queueing a job again depends on.
_OURS = {
    "nodes": "--nodes", "ntasks-per-node": "--tasks-per-node", "gpus-per-node": "--gpus-per-node",
    "cpus-per-task": "--cpus-per-task", "mem": "--mem-gb", "time": "--time", "partition": "--partition",
    "job-name": "--name", "output": "--log-dir", "error": "--log-dir", "signal": "--signal-delay",
    "array": "--workers and --array-parallelism", "requeue": "--no-requeue", "no-requeue": "--no-requeue",
}  # fmt: skip
_HARMFUL = {
    "ntasks": "Lightning needs the tasks of each node: use --tasks-per-node",
    "gpus-per-task": "Lightning wants every task to see all GPUs of its node: use --gpus-per-node",
    "open-mode": "a job that is queued again would overwrite its log",
}
#: sbatch flags that ask for GPUs, and those that may.
_GPUS, _RESOURCES = ("gpus", "gpus-per-socket"), ("gres", "tres-per-node", "tres-per-task", "tres-per-job")
_CLUSTER_ONLY = ("partition", "extra", "max_restarts", "requeue", "mem_gb", "cpus_per_task", "array_parallelism")


@dataclass(frozen=True)
class Request:
    """What `kdse submit` asks for; names are those of its flags, whose help explains them.

    Args:
        tasks_per_node: None is one for each GPU, or one.
        gpus_per_node, cpus_per_task, mem_gb, partition: None leaves it to the cluster.
        minutes: None is `DEFAULT_MINUTES` on a cluster, and no limit on this machine.
        workers: jobs of an array; None is a single job that is no array.
        extra: further sbatch flags; True for one without a value.

    Raises:
        ValueError: for values that contradict each other.
    """

    nodes: int = 1
    tasks_per_node: int | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    minutes: int | None = None
    partition: str | None = None
    name: str = "kdse"
    log_dir: Path = Path("runs/submitted")
    signal_delay_s: int = 120
    workers: int | None = None
    array_parallelism: int | None = None
    setup: tuple[str, ...] = ()
    extra: dict[str, str | bool] = field(default_factory=dict)
    requeue: bool = True
    max_restarts: int = 100

    def __post_init__(self) -> None:
        gpus = self.gpus_per_node
        if gpus and self.tasks_per_node not in (None, gpus):
            raise UserError(
                f"--tasks-per-node {self.tasks_per_node}: training has one task for each GPU, and --gpus-per-node is "
                f"{gpus}; leave it out"
            )
        minutes = self.minutes or DEFAULT_MINUTES
        if self.signal_delay_s >= 60 * minutes:
            raise UserError(
                f"--signal-delay {self.signal_delay_s}: is in seconds and leaves nothing of --time {minutes}, "
                "which is in minutes"
            )
        if self.array_parallelism is not None and self.workers is None:
            raise UserError("--array-parallelism: is about the workers of a sweep; give --workers, or leave it out")
        for name in self.extra:
            if name in _OURS:
                raise UserError(f"--set {name}: use {_OURS[name]}")
            if name in _HARMFUL:
                raise UserError(f"--set {name}: {_HARMFUL[name]}")
            if gpus is None and (name in _GPUS or (name in _RESOURCES and "gpu" in str(self.extra[name]))):
                raise UserError(
                    f"--set {name}={self.extra[name]}: one task would hold all of these GPUs and train on one; give "
                    "--gpus-per-node G, for the number of GPUs and tasks on each node (a --set for their type may "
                    "stand beside it)"
                )

    @property
    def tasks(self) -> int:
        """Tasks on each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    def make_log_dir(self) -> None:
        """Makes the folder for logs, or raises a ValueError that says why it cannot be made."""
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--log-dir {self.log_dir}: cannot be made ({error.strerror or error})") from None

    def check_local(self) -> None:
        """Raises a ValueError if something is asked for that only a cluster has."""
        if self.nodes > 1:
            raise UserError(f"--local --nodes {self.nodes}: this machine is one node")
        default = Request()
        given = next((name for name in _CLUSTER_ONLY if getattr(self, name) != getattr(default, name)), None)
        if given is not None:
            flag = {"extra": "set", "requeue": "no-requeue"}.get(given, given.replace("_", "-"))
            raise UserError(f"--local --{flag}: has no effect without SLURM; leave it out")


def command_for(request: Request, arguments: Sequence[str]) -> tuple[str, ...]:
    """The kdse command of each task: ``arguments`` and what the request adds to them.

    Raises:
        ValueError: for a command that cannot be submitted, or flags that contradict the request.
    """
    if not arguments:
        raise UserError("no command; give it after --, e.g. `kdse submit --gpus-per-node 2 -- fit --config my.yaml`")
    command, flags = arguments[0], list(arguments[1:])
    if command not in COMMANDS:
        raise UserError(f"{command}: cannot be submitted; {', '.join(COMMANDS)} can")
    if command != "sweep" and request.workers is not None:
        raise UserError(f"--workers: is for a sweep; {command} is one job")
    if command == "fit":
        return (command, *_fit(request, flags))
    if request.nodes * request.tasks > 1:
        what = "each worker of a sweep is one task; give --workers" if command == "sweep" else f"{command} is one task"
        raise UserError(f"--nodes {request.nodes}, {request.tasks} tasks on each: {what}")
    return (command, *(_sweep(flags) if command == "sweep" else flags))


def _fit(request: Request, flags: list[str]) -> list[str]:
    added = []
    for name, value, ours in (
        ("--trainer.devices", request.tasks, "--tasks-per-node"),
        ("--trainer.num_nodes", request.nodes, "--nodes"),
    ):
        given = _value(flags, name)
        if given is None:
            added.append(f"{name}={value}")
        elif given != str(value):
            raise UserError(f"{name}={given}: contradicts {ours} {value}; leave it out, it follows from that")
    resume = _value(flags, "--resume")
    other = next((name for name in ("--ckpt_path", "--overwrite") if _value(flags, name) is not None), None)
    if other is not None:
        if request.requeue:
            raise UserError(
                f"{other}: a job that is queued again goes on in its run folder (--resume=true) and would not do this "
                "once more; give --no-requeue, or leave it out"
            )
    elif resume is None:
        added.append("--resume=true")
    elif resume.lower() not in ("true", "yes", "1") and request.requeue:
        raise UserError(f"--resume={resume}: a job that is queued again would start anew; give --no-requeue with it")
    return [*flags, *added]


def _sweep(flags: list[str]) -> list[str]:
    if _value(flags, "--out") is None:
        raise UserError("sweep: give --out, the folder that all workers share")
    workers = _value(flags, "--workers")
    if workers not in (None, "1"):
        raise UserError(f"sweep --workers {workers}: every job is one worker; give --workers before the -- instead")
    added = ["--workers=1"] if workers is None else []
    # (a job that waits for the points of others holds a GPU for nothing)
    return [*flags, *added, *([] if "--no-wait" in flags else ["--no-wait"])]


def _value(flags: Sequence[str], name: str) -> str | None:
    """The last value of a flag among arguments, written as ``--name=value`` or ``--name value``; None if not there."""
    found = None
    for i, flag in enumerate(flags):
        if flag == name:
            found = flags[i + 1] if i + 1 < len(flags) else ""
        elif flag.startswith(f"{name}="):
            found = flag.removeprefix(f"{name}=")
    return found
