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
from typing import NamedTuple

import numpy as np

from kdse.metrics.intrusive import Scores, Signal, check_metrics, failed, score

#: How long a worker may take to start (a loaded machine imports slowly) before the item counts as failed.
START_S = 120.0
#: One thread a worker; workers are how the machine's cores are used.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


class Scored(NamedTuple):
    """One item: its name and the scores of each of its estimates."""

    name: str
    scores: dict[str, Scores]


class _Task(NamedTuple):
    name: str
    clean: np.ndarray
    estimates: dict[str, np.ndarray]
    done: Callable[[Scored], None] | None
    result: Future[Scored]


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
        if workers < 0:
            raise ValueError(f"--workers {workers}: give 0 (score in this process) or a number of processes")
        check_metrics(metrics, sample_rate_hz, files)
        self.metrics, self.sample_rate_hz, self.files = tuple(metrics), sample_rate_hz, dict(files or {})
        self.workers, self.timeout_s = workers, timeout_s
        self._results: list[Future[Scored]] = []
        # bounded: submit waits when scoring is slower than the model, so that audio does not pile up in memory
        self._tasks: queue.Queue[_Task | None] = queue.Queue(maxsize=4 * workers)
        self._crew: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._reporting = threading.Lock()
        self._error: BaseException | None = None  # that ``done`` raised

    def submit(
        self, name: str, clean: Signal, estimates: Mapping[str, Signal], done: Callable[[Scored], None] | None = None
    ) -> None:
        """Takes one item: clean speech ``[N]`` and its estimates ``[N]`` by system.

        Arrays are copied as float32; scores come from `collect`, and, as soon as they are there, to ``done`` (in any
        thread and order, one at a time). What ``done`` raises ends a `submit` or `collect`.
        """
        copies = {system: np.array(estimate, dtype=np.float32) for system, estimate in estimates.items()}
        task = _Task(name, np.array(clean, dtype=np.float32), copies, done, Future())
        if self.workers:
            self.start()
            self._tasks.put(task)
        else:
            self._score(task, score)
        self._results.append(task.result)
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
            worker = _Worker(self.metrics, self.timeout_s)
            # a daemon: a process that ends does not wait for items that nobody will collect
            thread = threading.Thread(target=self._feed, args=(worker,), name="kdse-score", daemon=True)
            self._crew.append(worker)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Ends the worker processes; what was not collected is lost. A later submit starts them again."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for worker in self._crew:
            self._tasks.put(None)
            worker.stop()
        for thread in self._threads:
            thread.join()
        self._threads, self._crew, self._results, self._error = [], [], [], None

    def __enter__(self) -> ScorePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _feed(self, worker: _Worker) -> None:
        """A thread's work: hands tasks to its worker, so that workers are busy while this process runs the model."""
        with contextlib.suppress(EOFError, OSError):  # (then the first item tries again)
            worker.connect()
        while (task := self._tasks.get()) is not None:
            self._score(task, worker.score)
        worker.end()

    def _score(self, task: _Task, score_one: Callable[..., Scores]) -> None:
        # one estimate at a time, so that a crash fails that estimate only
        scores = {
            system: score_one(task.clean, estimate, self.sample_rate_hz, self.metrics, self.files)
            for system, estimate in task.estimates.items()
        }
        scored = Scored(task.name, scores)
        with self._reporting:
            if task.done is not None and self._error is None:
                try:
                    task.done(scored)
                except BaseException as error:
                    self._error = error
        task.result.set_result(scored)

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


class _Worker:
    """A worker process and the connection to it; started when first needed and again after a crash."""

    def __init__(self, metrics: Sequence[str], timeout_s: float) -> None:
        self._metrics, self._timeout_s = metrics, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def score(self, clean: np.ndarray, *rest: object) -> Scores:
        """As `kdse.metrics.score`, but whatever happens, a crash or a time-out too, fails these metrics only."""
        try:
            connection = self.connect()
            connection.send((clean, *rest))
            if connection.poll(self._timeout_s):
                return connection.recv()
            reason = f"scoring took longer than {self._timeout_s:g} s"
        except (EOFError, OSError):
            reason = f"the scoring process died ({self._exit_code()})"
        except BaseException as error:
            reason = f"could not be scored ({type(error).__name__}: {error})"
        self.end()
        return failed(self._metrics, reason)

    def end(self) -> None:
        """Ends the process; the next item starts another."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()  # it holds nothing worth a farewell
            process.wait()

    def stop(self) -> None:
        """Ends the process for good, from another thread and in the middle of an item; its own thread cleans up."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is not None:
            process.kill()

    def connect(self) -> Connection:
        """The connection to a process that has imported what its metrics need.

        Raises:
            EOFError, OSError: if it does not start, or was stopped.
        """
        if self._connection is not None:
            return self._connection
        self.end()  # (one that did not get ready)
        ours, theirs = Pipe()
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with theirs, self._lock:
            if self._stopped:
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

    def _exit_code(self) -> str:
        if self._process is None:
            return "it did not start"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return "no answer"
