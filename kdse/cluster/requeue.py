"""The end of a batch script: a job that was stopped is queued again, one that failed or was cancelled is not."""

from __future__ import annotations

import shlex
from pathlib import Path

#: `kdse.cluster.task` leaves the file STOPPED. 138 = 128 + SIGUSR1: the signal came before it was there. An array's
#: task is named by its index, because the number of a task can be that of the whole array. A job that was cancelled, or
#: that SLURM has queued again itself, is no longer RUNNING here. The same lines are in experiments/cluster/.
_LINES = """\
if [ "$code" = 138 ] || { [ "$code" = 0 ] && [ -e "$STOPPED" ]; }; then
  rm -f "$STOPPED"
  code=75
  job="$SLURM_JOB_ID"
  if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"; fi
  if [ "$(squeue --noheader --format=%T --jobs="$job")" != RUNNING ]; then
    echo "stopped; job $job is cancelled or queued again already"
  elif [ "${SLURM_RESTART_COUNT:-0}" -ge "$MAX_RESTARTS" ]; then
    echo "stopped; job $job is not queued again after $MAX_RESTARTS restarts. Submit it again to go on"
  else
    echo "stopped; job $job is queued again"
    scontrol requeue "$job"
  fi
fi
exit "$code"
"""


def before(folder: Path) -> list[str]:
    """Lines of shell ahead of the `srun` line. ``folder`` is absolute and that of `kdse.cluster.task.Task`."""
    return [f'STOPPED={shlex.quote(str(folder))}/"stopped-$SLURM_JOB_ID"', 'rm -f "$STOPPED"']


def after(max_restarts: int) -> list[str]:
    """Lines of shell that follow the `srun` line directly: they begin with reading its exit code.

    Args:
        max_restarts: how often a job is queued again; it guards against one that is stopped without end.
    """
    return ["code=$?", f"MAX_RESTARTS={max_restarts}", *_LINES.splitlines()]
