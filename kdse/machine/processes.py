"""Child processes and signals: exit code, signal handlers, start and end of a child, cores for it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from kdse.machine.threads import VARIABLES

#: Exit code for "stopped by a signal, start me again": EX_TEMPFAIL of sysexits.h.
STOPPED = 75
#: Exit code after Ctrl-C, as shells have it: 128 + SIGINT.
INTERRUPTED = 130
#: Exit code of a training run that ended because its loss or gradients were not finite any more.
DIVERGED = 3

#: Seconds that a program has after Ctrl-C to end by itself, and then after SIGTERM.
PATIENCE_S = 30.0

#: In a child's environment: Python looks for modules in no working folder, where a file called torch.py would be taken
#: for torch. (Any value means that; this one tells that kdse set it.)
SAFE_PATH = {"PYTHONSAFEPATH": "kdse"}
#: The command line of kdse, with the Python that runs this.
KDSE = (sys.executable, "-m", "kdse.cli")

PR_SET_PDEATHSIG = 1  # of prctl, see linux/prctl.h


@contextlib.contextmanager
def listening(numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Hands signals to ``handler`` meanwhile; not those that this process was started to ignore (by nohup, say)."""
    taken = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Gives all children of this process `SAFE_PATH` meanwhile, those of multiprocessing and of libraries too."""
    ours = {} if os.environ.get("PYTHONSAFEPATH") else SAFE_PATH
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextlib.contextmanager
def working_folder_last() -> Iterator[None]:
    """Finds the user's own modules in the working folder meanwhile: after all others, so that none is replaced."""
    before = list(sys.path)
    here = _working_folder()
    if here is not None and not {"", here} & {*before}:
        sys.path.append(here)
    try:
        yield
    finally:
        sys.path[:] = before


def _working_folder() -> str | None:
    with contextlib.suppress(OSError):  # (it was deleted)
        return os.getcwd()
    return None


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a Python process that works for this one: it finds the same modules, and has so many threads."""
    home, here = str(Path(__file__).parents[2]), _working_folder() or ""
    # (kdse may have been found in the working folder, or by an import hook; a kdse.py of the working folder is neither)
    found = [place for place in sys.path if place not in ("", here)]
    path = os.pathsep.join([*found, *([home] if home != here else []), *([here] if here in (home, *sys.path) else [])])
    return os.environ | SAFE_PATH | {"PYTHONPATH": path} | dict.fromkeys(VARIABLES, str(threads))


def call(command: Sequence[str], stdout: int | None = None) -> int:
    """Runs a program of this process's group to its end; returns its exit code. ``stdout``: a descriptor; None is ours.

    Ctrl-C in a terminal reaches both. The program then has ``PATIENCE_S`` to end by itself; then it gets SIGTERM, and
    at last, or at a second Ctrl-C, SIGKILL.

    Raises:
        KeyboardInterrupt: after Ctrl-C, when the program has ended.
    """
    child = subprocess.Popen(command, stdout=stdout)
    try:
        return child.wait()
    except BaseException:
        try:
            for stop in (child.terminate, child.kill):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(PATIENCE_S)
                stop()  # (nothing happens to what has ended)
        except KeyboardInterrupt:
            child.kill()
        child.wait()
        raise


def start_apart(
    command: Sequence[str], output: BinaryIO, environment: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Starts a program in a process group of its own, which Ctrl-C in a terminal does not reach.

    It gets SIGTERM when this process, which must have one thread, ends in whatever way (Linux).

    Args:
        output: an open file for all that it says.
        pass_fds: open files that it keeps.

    Raises:
        OSError: if it cannot be started.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=pass_fds,
        process_group=0,
        preexec_fn=_stop_with_parent(),  # noqa: PLW1509 (this process has one thread)
    )


def _stop_with_parent() -> Callable[[], None] | None:
    """What a new process runs first, to get SIGTERM when this one ends."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(STOPPED)

    return ask
