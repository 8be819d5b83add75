"""One training process of a sweep: its log, the name of its run, and its end by signal."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from kdse.machine.processes import start_apart
from kdse.sweeps.store import Claim

FOLDER = re.compile(r"^run folder: (.+)$", re.MULTILINE)
#: Control sequences of terminals, which progress bars leave in logs.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONGEST_LINE = 300
#: Bytes of a log that are searched for what comes early, and for what comes last.
SEARCHED_BYTES = 1 << 18


class Child:
    """A running `kdse fit`, which holds its claim's lock: the point is taken as long as it lives.

    Args:
        claim: what it trains.
        command: whole command line.
        log: file that its output is added to.
        environment: of the process.
    """

    def __init__(self, claim: Claim, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.claim, self.log = claim, log
        self.started = time.monotonic()
        self.identity: str | None = None
        self.told_to_stop = self.stopped_early = False
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            self._begin = file.tell()
            self.process = start_apart(command, file, environment, (claim.lock,))

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.poll()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Sends the process a signal, once; SIGKILL goes to all that it started, and always."""
        if self.process.poll() is not None:
            return
        if number == signal.SIGKILL:
            os.killpg(self.process.pid, signal.SIGKILL)
        elif not self.told_to_stop:
            self.process.send_signal(number)
        self.told_to_stop = True

    def find_identity(self) -> str | None:
        """The name of its run folder when its log says it for the first time; None at any other time."""
        found = None if self.identity else FOLDER.search(self._output(first=SEARCHED_BYTES))
        if found is None:
            return None
        self.identity = PurePath(found[1].strip()).name
        return self.identity

    def last_line(self) -> str:
        """The last thing it said; of progress bars, what they showed last."""
        lines = [line.strip() for line in re.split(r"[\r\n]", CONTROL.sub("", self._output(last=SEARCHED_BYTES)))]
        return next((line[:LONGEST_LINE] for line in reversed(lines) if line), "")

    def _output(self, first: int = -1, last: int | None = None) -> str:
        with open(self.log, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(self._begin if last is None else max(self._begin, end - last))
            return file.read(first).decode("utf-8", errors="replace")
