"""File locks that the kernel frees when the last process that holds them ends, however it ends.

A lock is held by an open file, which a child process can share. On a folder that several machines mount, the file
system must pass locks on (NFS 4 does, Lustre if mounted with ``flock``, BeeGFS with ``tuneUseGlobalFileLocks``).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdse.errors import UserError
from kdse.machine.progress import say


def take(path: Path) -> int | None:
    """Takes a lock: the open file that holds it until it is closed (`os.close`), or None if another has it.

    Raises:
        ValueError: if the file system has no locks.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError as error:
        os.close(file)
        raise UserError(
            f"{path}: this file system has no locks ({error.strerror}), and without them two workers would train one "
            "point; give an --out elsewhere"
        ) from None
    return file


def held(path: Path) -> bool:
    """Whether somebody holds a lock; a missing file is held by nobody."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


class Lock:
    """A lock to wait for, as a context; within one process it can be taken again by whoever has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._depth = 0

    def __enter__(self) -> Lock:
        wait = 0.001
        while self._file is None:
            self._file = take(self.path)
            if self._file is None:
                time.sleep(wait)
                wait = min(2 * wait, 0.1)
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._file is not None:
            os.close(self._file)
            self._file = None


class JournalLock:
    """What Optuna's journal takes to write: ours, since its own are files that a killed process leaves behind.

    Also takes away a line that a full disk cut short, which would make the journal unreadable.
    """

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self._lock = Lock(journal.with_name(journal.name + ".lock"))

    def acquire(self) -> bool:
        self._lock.__enter__()
        with open(self.journal, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._lock.__exit__()


@contextmanager
def alone(target: Path, waiting: str, tell: bool = True) -> Iterator[None]:
    """Holds the lock of a file or folder that is being made (``<target>.lock``).

    Says ``waiting``, if ``tell`` is set, where another process holds it; then waits for that one.
    """
    lock = FileLock(target.with_name(target.name + ".lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        if tell:
            say(waiting)
        held = lock.acquire()
    with held:
        yield
