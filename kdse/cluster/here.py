"""Jobs on this machine, without a cluster: a command that was stopped is started again, as a cluster would."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence

from kdse.cluster.request import Request
from kdse.errors import UserError
from kdse.machine.processes import KDSE, STOPPED, listening, start_apart

MAX_RESTARTS = 5
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
LOOK_SECONDS = 0.1


def run_here(request: Request, arguments: Sequence[str], program: Sequence[str] = KDSE) -> int:
    """Runs `kdse` with these arguments, or ``request.workers`` of it side by side, and waits.

    A command that was stopped, by a signal to it or at the time limit, is started again, five times at most. A signal
    to this process is one to all of them, and none is started again; killed, it leaves none running (Linux). Of the
    request its workers, GPUs, setup, folder for logs and time limit count.

    Returns:
        the highest exit code; 75 for a command that was stopped, 128 + n for one that signal n killed.

    Raises:
        ValueError: if a log cannot be written.
    """
    here = [_Place(request, i, [*program, *arguments]) for i in range(request.workers or 1)]
    for place in here:
        print(f"log: {place.log}", flush=True)
    heard: list[int] = []
    with listening(_PASSED_ON, lambda number, _: heard.append(number)):
        try:
            while any([place.runs() for place in here]):  # noqa: C419 (every one is looked after)
                while heard:
                    number = heard.pop(0)
                    for place in here:
                        place.stop(number)
                time.sleep(LOOK_SECONDS)
        finally:
            for place in here:  # (only if something went wrong here)
                place.stop(signal.SIGTERM)
    return max(place.code for place in here)


class _Place:
    """One command, with its restarts."""

    def __init__(self, request: Request, index: int, command: Sequence[str]) -> None:
        self.request, self.command = request, list(command)
        if request.setup:
            self.command = ["bash", "-c", "\n".join([*request.setup, 'exec "$@"']), "bash", *command]
        self.log = request.log_dir.absolute() / f"here_{os.getpid()}_{index}_log.out"
        self.code = 0
        self.stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._starts, self._began, self._told = 0, 0.0, False

    def runs(self) -> bool:
        """Looks after the process, starting it where that is due; False once it has ended for good."""
        if self._process is None:
            if self.stopping:
                self.code = STOPPED
                return False
            self._start()
            return True
        code = self._process.poll()
        if code is None:
            self._keep_time()
            return True
        # (killed by a signal before it listened: nothing is lost by then)
        stopped = code == -signal.SIGUSR1 or (self.stopping and -code in _PASSED_ON)
        self.code = STOPPED if stopped else code if code >= 0 else 128 - code
        if self.code != STOPPED or self.stopping or self._starts > MAX_RESTARTS:
            return False
        self._process = None
        return True

    def stop(self, number: int) -> None:
        """Sends the process a signal, if there is one; it is not started again."""
        self.stopping = True
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def _start(self) -> None:
        try:
            file = open(self.log, "ab")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"--log-dir {self.request.log_dir}: cannot be written to ({error.strerror})") from None
        with file:
            file.write(f"{shlex.join(self.command)}\n".encode())
            file.flush()
            self._process = start_apart(self.command, file, _environment(self.request))
        self._starts, self._began, self._told = self._starts + 1, time.monotonic(), False

    def _keep_time(self) -> None:
        assert self._process is not None
        if self.request.minutes is None:
            return
        left = self._began + 60 * self.request.minutes - time.monotonic()
        if left < 0:
            os.killpg(self._process.pid, signal.SIGKILL)
        elif left < self.request.signal_delay_s and not self._told:
            self._told = True
            self._process.send_signal(signal.SIGUSR1)


def _environment(request: Request) -> dict[str, str]:
    """The environment with so many GPUs as were asked for, of those that there are to choose from."""
    environment = dict(os.environ)
    if request.gpus_per_node is not None:
        there = environment.get("CUDA_VISIBLE_DEVICES")
        names = map(str, range(request.gpus_per_node)) if there is None else there.split(",")
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(list(names)[: request.gpus_per_node])
    return environment
