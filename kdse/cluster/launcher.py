"""Sending jobs to SLURM through submitit."""

from __future__ import annotations

import contextlib
import io
import shutil
import warnings
from dataclasses import replace
from typing import Any

from kdse.cluster import requeue
from kdse.cluster.request import DEFAULT_MINUTES, Request
from kdse.cluster.task import Task
from kdse.errors import UserError
from kdse.internals.submitit import batch_script


def script(request: Request) -> str:
    """The batch script that `submit` would send; needs submitit, but no SLURM."""
    return batch_script(_slurm(request, wherever=True), request.workers or 1).rstrip() + "\n"


def submit(request: Request, task: Task) -> list[str]:
    """Sends a job, or an array of ``request.workers`` jobs, to SLURM; their numbers, of an array's ``NUMBER_INDEX``.

    Raises:
        ValueError: if submitit or SLURM is not there, the folder for logs cannot be written, or sbatch refuses the job.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise UserError(
            "there is no SLURM here (no sbatch and srun): use a login node of the cluster; --dry-run shows the script, "
            "--local runs it on this machine"
        )
    executor = _slurm(request)
    request.make_log_dir()
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # (submitit prints what it raises)
            jobs = executor.submit_array([replace(task, folder=request.log_dir.absolute())] * (request.workers or 1))
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"sbatch refused the job: {' '.join(str(error).split())}") from None
    return [job.job_id for job in jobs]


def _slurm(request: Request, wherever: bool = False) -> Any:
    """submitit's executor for the request; ``wherever``: also where there is no SLURM, to look at the script."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import submitit
    except ImportError:
        raise UserError("kdse submit needs submitit: pip install 'kdse[cluster]'") from None

    class Anywhere(submitit.SlurmExecutor):  # type: ignore[name-defined]  # (imported when needed)
        @classmethod
        def affinity(cls) -> int:
            return 1

    folder = request.log_dir.absolute()  # (a job may change its working directory)
    # (srun does not take --cpus-per-task over from sbatch)
    cpus = [] if request.cpus_per_task is None else [f"--cpus-per-task={request.cpus_per_task}"]
    executor = (Anywhere if wherever else submitit.SlurmExecutor)(request.log_dir)
    wanted: dict[str, Any] = {
        "job_name": request.name,
        "partition": request.partition,
        "time": request.minutes or DEFAULT_MINUTES,
        "nodes": request.nodes,
        "ntasks_per_node": request.tasks,
        "cpus_per_task": request.cpus_per_task,
        "gpus_per_node": request.gpus_per_node,
        "mem": None if request.mem_gb is None else f"{round(1024 * request.mem_gb)}MB",
        "stderr_to_stdout": True,
        # (cores are for the data workers; without GPUs, --setup gives the model more)
        "setup": ['export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"', *request.setup, *requeue.before(folder)],
        "teardown": requeue.after(request.max_restarts if request.requeue else 0),
        "array_parallelism": request.array_parallelism or request.workers,
        # one failed task ends the others, which would wait for it; a job that comes back goes on in its log
        "srun_args": ["--kill-on-bad-exit=1", "--open-mode=append", *cpus],
        # (SIGUSR1 is what kdse stops on; submitit's own is SIGUSR2)
        "additional_parameters": {
            "signal": f"USR1@{request.signal_delay_s}",
            **({"requeue": True} if request.requeue else {"no-requeue": True}),
            **request.extra,
        },
    }
    executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
    return executor
