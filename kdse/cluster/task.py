"""One task of a job: runs a kdse command, and tells "stopped, start me again" from a failure.

`srun` ends all tasks when one fails, and its exit code is the highest of theirs. Exit code 75 of kdse is no failure: a
task that says it must not make `srun` end the others, which are writing a checkpoint, nor hide the exit code of one
that did fail. So it leaves a note and ends with 0:

    srun --kill-on-bad-exit=1 python -m kdse.cluster.task NOTE fit --config ...
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from kdse.machine.processes import KDSE, STOPPED

_PASSED_ON = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # the last: submitit's own, from within


def run(arguments: Sequence[str], program: Sequence[str] = KDSE) -> int:
    """Runs `kdse` with these arguments; a signal to this process is one to kdse.

    Returns:
        its exit code, 128 + n where signal n killed it, and `STOPPED` also where SIGUSR1 came before kdse took it.
    """
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals that came while kdse was being started

    def stop(number: int, frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            process.send_signal(signal.SIGUSR1 if number == signal.SIGUSR2 else number)

    for number in _PASSED_ON:
        signal.signal(number, stop)
    process = subprocess.Popen([*program, *arguments])
    for missed in early:
        stop(missed, None)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if code == -signal.SIGUSR1:
        return STOPPED
    return code if code >= 0 else 128 - code


@dataclass(frozen=True)
class Task:
    """A kdse command as submitit calls it.

    submitit's own checkpointing is not used: it queues the job again from within the signal, wherever training is.

    Args:
        arguments: of `kdse`, beginning with the command.
        folder: in which a task that was stopped leaves its note, ``stopped-JOB``.
    """

    arguments: tuple[str, ...]
    folder: Path = Path()

    def __str__(self) -> str:
        return shlex.join(["kdse", *self.arguments])

    def __call__(self) -> int:
        print(self, flush=True)
        code = run(self.arguments)
        if code:
            sys.exit(_note(self.folder / f"stopped-{os.environ['SLURM_JOB_ID']}") if code == STOPPED else code)
        return code


def _note(path: Path) -> int:
    path.touch()
    return 0


def main(argv: Sequence[str]) -> int:
    """``NOTE COMMAND ...``: runs the command; returns 0 and leaves the file NOTE if it was stopped."""
    code = run(argv[1:])
    return _note(Path(argv[0])) if code == STOPPED else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
