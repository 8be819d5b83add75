"""Commands of kdse in processes that start at once, killed at a moment of choice: by the clock, or at a file operation.

Each is forked from a server that has the imports behind it, so that a moment falls into the command's own work.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

PRELOADED = ["torch", "scipy.signal", "pesq", "pystoi", "optuna", "onnx", "onnxruntime", "litdata", "rich.console",
             "matplotlib.pyplot", "kdse.commands.evaluate", "kdse.commands.sweep", "kdse.commands.export",
             "kdse.commands.corpus", "kdse.deploy.export.write", "kdse.sweeps.report",
             "kdse.sweeps.runner", "kdse.data.corpus.packing", "kdse.training.teaching",
             "tests.faults.killing"]  # fmt: skip
#: Audit events of Python for what changes a file or folder; ``open`` counts if it is for writing.
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PATIENCE_S = 240


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (-9 for SIGKILL), seconds, file operations begun, and what it said."""

    code: int
    seconds: float
    operations: int
    said: str


@dataclass(frozen=True)
class Moment:
    """When a command is killed: after so many seconds, or when it begins its n-th file operation (from 1)."""

    seconds: float | None = None
    operation: int | None = None


def moments(undisturbed: Ended, count: int, seed: int) -> Iterator[Moment]:
    """So many moments of a command's life: half of them by the clock, half at file operations, of which half lie near
    the end, where results get their names."""
    draw = random.Random(seed)
    for number in range(count):
        if number % 2:
            first = max(1, undisturbed.operations - 9) if number % 4 == 1 else 1
            yield Moment(operation=draw.randint(first, undisturbed.operations))
        else:
            yield Moment(seconds=draw.uniform(0, 0.9 * undisturbed.seconds))


def run(arguments: Sequence[str], moment: Moment = Moment()) -> Ended:
    """Runs a kdse command to its end, or to the moment of its kill and the end of all that it had started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe(duplex=False)
    started = time.monotonic()
    process = context.Process(target=_command, args=(list(arguments), moment.operation, theirs))
    process.start()
    theirs.close()
    operations, said = 0, ""
    if moment.seconds is not None:
        process.join(moment.seconds)
        process.kill()
    with contextlib.suppress(EOFError):
        if ours.poll(PATIENCE_S):
            operations, said = ours.recv()
    process.join(PATIENCE_S)
    seconds = time.monotonic() - started
    while _session(process.pid):  # (those that it started notice its end by themselves)
        assert time.monotonic() < started + PATIENCE_S, f"{arguments}: left processes behind: {_session(process.pid)}"
        time.sleep(0.02)
    return Ended(process.exitcode, seconds, operations, said)


def _command(arguments: list[str], last_operation: int | None, told: Connection) -> None:
    from kdse.cli import main

    os.setsid()
    log = os.memfd_create("said")
    os.dup2(log, 1)
    os.dup2(log, 2)
    operations = 0

    def count(event: str, values: tuple) -> None:
        nonlocal operations
        if event in FILE_EVENTS and (event != "open" or (values[2] or 0) & WRITING):
            operations += 1
            if operations == last_operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    told.send((operations, os.pread(log, 1 << 20, 0).decode()))
    os._exit(code)


def _session(leader: int | None) -> list[int]:
    """Processes of a session other than its leader."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and fields[0] != "Z" and stat.parent.name != str(leader):
                found.append(int(stat.parent.name))
    return found
