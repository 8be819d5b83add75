"""Jobs on this machine, without a cluster: a command that was stopped is started again, as a cluster would."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Sequence

from kdse.cluster.request import Request
from kdse.errors import UserError
from kdse.machine.engine import carry_out
from kdse.machine.processes import KDSE, STOPPED, listening, start_apart

MAX_RESTARTS = 5
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


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
    here = _Commands(request, [*program, *arguments])
    for log in here.logs:
        print(f"log: {log}", flush=True)
    with listening(_PASSED_ON, lambda number, _: here.heard.append(number)):
        carry_out(here.begin, here.end, here.look, places=len(here.logs))
    return max(here.codes.values())


class _Started:
    """A command since its last start."""

    def __init__(self, place: int, process: subprocess.Popen[bytes]) -> None:
        self.place, self.process, self.poll = place, process, process.poll
        self.began, self.told = time.monotonic(), False

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def keep_time(self, request: Request) -> None:
        """Tells it to stop shortly before the time limit, and kills it there."""
        assert request.minutes is not None
        left = self.began + 60 * request.minutes - time.monotonic()
        if left < 0:
            os.killpg(self.process.pid, signal.SIGKILL)
        elif left < request.signal_delay_s and not self.told:
            self.told = True
            self.stop(signal.SIGUSR1)


class _Commands:
    """One command at each place, with its restarts. ``codes`` has those that have ended for good."""

    def __init__(self, request: Request, command: Sequence[str]) -> None:
        self.request, self.command = request, list(command)
        if request.setup:
            self.command = ["bash", "-c", "\n".join([*request.setup, 'exec "$@"']), "bash", *command]
        names = [f"here_{os.getpid()}_{place}_log.out" for place in range(request.workers or 1)]
        self.logs = [request.log_dir.absolute() / name for name in names]
        self.heard: list[int] = []
        self.codes: dict[int, int] = {}
        self.stopping = False
        self._starts: Counter[int] = Counter()

    def begin(self, place: int) -> _Started | None:
        if place in self.codes:
            return None
        if self.stopping:
            self.codes[place] = STOPPED
            return None
        try:
            file = open(self.logs[place], "ab")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"--log-dir {self.request.log_dir}: cannot be written to ({error.strerror})") from None
        self._starts[place] += 1
        with file:
            file.write(f"{shlex.join(self.command)}\n".encode())
            file.flush()
            return _Started(place, start_apart(self.command, file, _environment(self.request)))

    def look(self, running: Collection[_Started]) -> None:
        while self.heard:
            number, self.stopping = self.heard.pop(0), True
            for started in running:
                started.stop(number)
        for started in running if self.request.minutes is not None else ():
            started.keep_time(self.request)

    def end(self, process: _Started, code: int) -> None:
        # (killed by a signal before it listened: nothing is lost by then)
        stopped = code == -signal.SIGUSR1 or (self.stopping and -code in _PASSED_ON)
        code = STOPPED if stopped else code if code >= 0 else 128 - code
        if code != STOPPED or self.stopping or self._starts[process.place] > MAX_RESTARTS:
            self.codes[process.place] = code


def _environment(request: Request) -> dict[str, str]:
    """The environment with so many GPUs as were asked for, of those that there are to choose from."""
    environment = dict(os.environ)
    if request.gpus_per_node is not None:
        there = environment.get("CUDA_VISIBLE_DEVICES")
        names = map(str, range(request.gpus_per_node)) if there is None else there.split(",")
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(list(names)[: request.gpus_per_node])
    return environment
