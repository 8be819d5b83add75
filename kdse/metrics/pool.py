"""`ScorePool`: scores items in worker processes; one that crashes or hangs costs the item it was working on.

A worker is a fresh Python process (`kdse.metrics.worker`), not a fork: forking a process that runs CUDA or threads
deadlocks, and multiprocessing's spawn and forkserver import the user's main script again. Each has a connection and a
thread of its own. Pools whose workers share a queue (pebble, concurrent.futures) break or hang as a whole if a worker
is killed while it is idle or receives an item, as the system does when memory runs out.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from kdse.errors import require_at_least
from kdse.metrics.registry import Scores, Signal, check_metrics, failed, score

#: How long a worker may take to start (a loaded machine imports slowly) before the item counts as failed.
START_S = 120.0
#: One thread a worker; workers are how the machine's cores are used.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


#: Scores an item by the function that it is given, and reports it.
_Work = Callable[[Callable[..., Scores]], None]


class Scored(NamedTuple):
    """One item: its name and the scores of each of its estimates."""

    name: str
    scores: dict[str, Scores]


class ScorePool:
    """Scores items against clean speech over processes; results come back in the order of submission.

    Args:
        metrics: names from `kdse.metrics.METRICS`.
        sample_rate_hz: of all audio.
        workers: processes; 0 scores in this process. Values do not depend on it.
        timeout_s: an estimate that takes longer counts as failed, and its worker is replaced.
        files: model files that some metrics need, by name (see `kdse.metrics.check_metrics`).

    A worker that dies (PESQ is C code) fails the estimate it was working on and is replaced.
    Processes start with the first item and end with `close` (or when this process ends, however it ends).
    """

    def __init__(
        self,
        metrics: Sequence[str],
        sample_rate_hz: int = 16000,
        workers: int = 0,
        timeout_s: float = 300.0,
        files: Mapping[str, str] | None = None,
    ) -> None:
        require_at_least(0, workers=workers)
        check_metrics(metrics, sample_rate_hz, files)
        self.metrics, self.sample_rate_hz, self.files = tuple(metrics), sample_rate_hz, dict(files or {})
        self.workers, self.timeout_s = workers, timeout_s
        self._results: list[Future[Scored]] = []
        # bounded: submit waits when scoring is slower than the model, so that audio does not pile up in memory
        self._tasks: queue.Queue[_Work | None] = queue.Queue(maxsize=4 * workers)
        self._crew: list[_Worker] = []
        self._reporting = threading.Lock()
        self._error: BaseException | None = None  # that ``done`` raised

    def submit(
        self, name: str, clean: Signal, estimates: Mapping[str, Signal], done: Callable[[Scored], None] | None = None
    ) -> None:
        """Takes one item: clean speech ``[N]`` and its estimates ``[N]`` by system.

        Arrays are copied as float32; scores come from `collect`, and, as soon as they are there, to ``done`` (in any
        thread and order, one at a time). What ``done`` raises ends a `submit` or `collect`.
        """
        clean = np.array(clean, dtype=np.float32)
        copies = {system: np.array(estimate, dtype=np.float32) for system, estimate in estimates.items()}
        result: Future[Scored] = Future()

        def work(score_one: Callable[..., Scores]) -> None:
            # one estimate at a time, so that a crash fails that estimate only
            settings = (self.sample_rate_hz, self.metrics, self.files)
            scored = Scored(name, {system: score_one(clean, wave, *settings) for system, wave in copies.items()})
            with self._reporting:
                if done is not None and self._error is None:
                    try:
                        done(scored)
                    except BaseException as error:
                        self._error = error
            result.set_result(scored)

        if self.workers:
            self.start()
            self._tasks.put(work)
        else:
            work(score)
        self._results.append(result)
        self._raise()

    def collect(self) -> list[Scored]:
        """Waits for everything submitted since the last call and returns it in that order."""
        results, self._results = self._results, []
        scored = [result.result() for result in results]
        self._raise()
        return scored

    def start(self) -> None:
        """Starts the worker processes now, not with the first item: they import while the caller does."""
        while len(self._crew) < self.workers:
            worker = _Worker(self._tasks, self.metrics, self.timeout_s)
            worker.start()
            self._crew.append(worker)

    def close(self) -> None:
        """Ends the worker processes; what was not collected is lost. A later submit starts them again."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for worker in self._crew:
            self._tasks.put(None)
            worker.stop()
        for worker in self._crew:
            worker.join()
        self._crew, self._results, self._error = [], [], None

    def __enter__(self) -> ScorePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles (weight averaging, ddp_spawn) carry settings, not processes and items."""
        return type(self), (self.metrics, self.sample_rate_hz, self.workers, self.timeout_s, self.files)

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


class _Worker(threading.Thread):
    """A thread and its worker process, which is started when first needed and again after a crash."""

    def __init__(self, tasks: queue.Queue[_Work | None], metrics: Sequence[str], timeout_s: float) -> None:
        # a daemon: this process, when it ends, does not wait for items that nobody will collect
        super().__init__(name="kdse-score", daemon=True)
        self._tasks, self._metrics, self._timeout_s = tasks, metrics, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._ended = False  # for good
        self._starting = threading.Lock()

    def run(self) -> None:
        """Hands tasks to the process, so that it is busy while this process runs the model."""
        with contextlib.suppress(EOFError, OSError):  # (then the first item tries again)
            self._connect()
        while (work := self._tasks.get()) is not None:
            work(self.score)
        self._end()

    def score(self, clean: np.ndarray, *rest: object) -> Scores:
        """As `kdse.metrics.score`, but whatever happens, a crash or a time-out too, fails these metrics only."""
        try:
            connection = self._connect()
            connection.send((clean, *rest))
            if connection.poll(self._timeout_s):
                return connection.recv()
            reason = f"scoring took longer than {self._timeout_s:g} s"
        except (EOFError, OSError):
            reason = f"the scoring process died ({self._exit_code()})"
        except BaseException as error:
            reason = f"could not be scored ({type(error).__name__}: {error})"
        self._end()
        return failed(self._metrics, reason)

    def stop(self) -> None:
        """Ends the process for good, from another thread and in the middle of an item; `run` cleans up."""
        with self._starting:
            self._ended = True
            process = self._process
        if process is not None:
            process.kill()

    def _connect(self) -> Connection:
        """The connection to a process that has imported what its metrics need; EOFError or OSError if there is none."""
        if self._connection is not None:
            return self._connection
        self._end()  # (one that did not get ready)
        ours, theirs = Pipe()
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with theirs, self._starting:
            if self._ended:
                raise EOFError
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kdse.metrics.worker", str(theirs.fileno()), *self._metrics],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
        if not ours.poll(START_S):
            raise EOFError
        ours.recv()  # "ready"
        self._connection = ours
        return ours

    def _end(self) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()  # it has nothing to save
            process.wait()

    def _exit_code(self) -> str:
        if self._process is None:
            return "it did not start"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return "no answer"
