"""`ScorePool`: scores items in worker processes that may crash, hang or be interrupted without losing an item.

A worker is a fresh Python process (`python -m kdse.metrics.worker`), not a fork: forking a process that runs CUDA or
threads deadlocks, and multiprocessing's spawn would import the user's main script again. One thread a worker feeds it
over a socket, so that workers are busy while the main process runs the model.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from kdse.errors import UserError
from kdse.metrics.registry import METRICS, Scores, Signal, check_metrics, failed, score

#: How long a worker may take to start (a loaded machine imports slowly) before the item counts as failed.
START_S = 120.0
#: One thread a worker; workers are how the machine's cores are used.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


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
        timeout_s: an item that takes longer counts as failed, and its worker is replaced.
        files: model files that some metrics need, by name (see `kdse.metrics.check_metrics`).

    A worker that dies (PESQ is C code) fails the item it was working on and is replaced; other items are not touched.
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
            raise UserError(f"--workers {workers}: give 0 (score in this process) or a number of processes")
        check_metrics(metrics, sample_rate_hz, files)
        self.metrics = tuple(metrics)
        self.sample_rate_hz = sample_rate_hz
        self.workers = workers
        self.timeout_s = timeout_s
        self.files = dict(files or {})
        self._error: BaseException | None = None
        self._results: list[Scored | None] = []
        # bounded: submit waits when scoring is slower than the model, so that audio does not pile up in memory
        self._tasks: queue.Queue[_Task | None] = queue.Queue(maxsize=4 * workers)
        self._reporting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._crew: list[_Worker] = []

    def submit(
        self,
        name: str,
        clean: Signal,
        estimates: Mapping[str, Signal],
        done: Callable[[Scored], None] | None = None,
    ) -> None:
        """Takes one item: clean speech ``[N]`` and its estimates ``[N]`` by system.

        Arrays are copied as float32; scores come from `collect`, and, as soon as they are there, to ``done`` (in any
        thread and order, one at a time). What ``done`` raises ends the next `submit` or `collect`.
        """
        self._raise()
        task = _Task(
            index=len(self._results),
            name=name,
            clean=np.array(clean, dtype=np.float32),
            estimates={system: np.array(estimate, dtype=np.float32) for system, estimate in estimates.items()},
            done=done,
        )
        self._results.append(None)
        if self.workers == 0:
            scores = {system: self._score_here(task.clean, estimate) for system, estimate in task.estimates.items()}
            self._finish(task, scores)
            self._raise()
            return
        if not self._threads:
            self._start()
        self._tasks.put(task)

    def _score_here(self, clean: np.ndarray, estimate: np.ndarray) -> Scores:
        return score(clean, estimate, self.sample_rate_hz, self.metrics, self.files)

    def _finish(self, task: _Task, scores: dict[str, Scores]) -> None:
        scored = Scored(task.name, scores)
        self._results[task.index] = scored
        with self._reporting:
            if task.done is not None and self._error is None:
                try:
                    task.done(scored)
                except BaseException as error:
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def collect(self) -> list[Scored]:
        """Waits for everything submitted since the last call and returns it in that order."""
        self._tasks.join()
        self._raise()
        results, self._results = self._results, []
        return [result for result in results if result is not None]

    def close(self) -> None:
        """Ends the worker processes; what was not collected is lost. A later submit starts them again."""
        with contextlib.suppress(queue.Empty):
            while self._threads:
                self._tasks.get_nowait()
                self._tasks.task_done()
        for _ in self._threads:
            self._tasks.put(None)
        for worker in self._crew:
            worker.stop()
        for thread in self._threads:
            thread.join()
        self._threads, self._crew, self._results, self._error = [], [], [], None

    def __enter__(self) -> ScorePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the worker processes now, not with the first item: they import while the caller does."""
        if self.workers and not self._threads:
            self._start()

    def _start(self) -> None:
        for _ in range(self.workers):
            worker = _Worker(self.metrics, self.sample_rate_hz, self.timeout_s, self.files)
            thread = threading.Thread(target=self._feed, args=(worker,), name="kdse-score", daemon=True)
            self._crew.append(worker)
            self._threads.append(thread)
            thread.start()

    def _feed(self, worker: _Worker) -> None:
        worker.warm_up()
        while (task := self._tasks.get()) is not None:
            try:
                try:
                    scores = worker.score(task.clean, task.estimates)
                except BaseException as error:  # whatever happens, the item is accounted for and collect() ends
                    reason = f"could not be scored ({type(error).__name__}: {error})"
                    scores = {system: failed(self.metrics, reason) for system in task.estimates}
                self._finish(task, scores)
            finally:
                self._tasks.task_done()
        worker.stop()
        self._tasks.task_done()


@dataclass(frozen=True)
class _Task:
    index: int
    name: str
    clean: np.ndarray
    estimates: dict[str, np.ndarray]
    done: Callable[[Scored], None] | None


class _Worker:
    """One worker process and the connection to it; started when first needed and again after a crash."""

    def __init__(self, metrics: tuple[str, ...], sample_rate_hz: int, timeout_s: float, files: dict[str, str]) -> None:
        self._metrics, self._sample_rate_hz, self._timeout_s, self._files = metrics, sample_rate_hz, timeout_s, files
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def score(self, clean: np.ndarray, estimates: dict[str, np.ndarray]) -> dict[str, Scores]:
        """Scores every estimate; each is sent on its own, so that a crash fails that estimate only."""
        return {system: self._score_one(clean, estimate) for system, estimate in estimates.items()}

    def warm_up(self) -> None:
        """Starts the process and lets it import what its metrics need; failing that, the first item tries again."""
        try:
            self._connect().send((None, self._metrics))
        except (EOFError, OSError):
            self._kill()

    def _score_one(self, clean: np.ndarray, estimate: np.ndarray) -> Scores:
        try:
            connection = self._connect()
            connection.send((clean, estimate, self._sample_rate_hz, self._metrics, self._files))
            if connection.poll(self._timeout_s):
                return Scores(*connection.recv())
            reason = f"scoring took longer than {self._timeout_s:g} s"
        except (EOFError, OSError):
            reason = f"the scoring process died ({self._exit_code()})"
        self._kill()
        return failed(self._metrics, reason)

    def _connect(self) -> Connection:
        if self._connection is not None:
            return self._connection
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._stopped:
                raise EOFError
            environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kdse.metrics.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
            self._connection = Connection(ours.detach())
        if not self._connection.poll(START_S) or self._connection.recv() != "ready":
            raise EOFError
        return self._connection

    def _exit_code(self) -> str:
        if self._process is None:
            return "it did not start"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return "no answer"

    def _kill(self) -> None:
        with self._lock:
            process, connection = self._process, self._connection
            self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """Ends the process, also in the middle of an item; it does not start again."""
        self._stopped = True
        with self._lock:
            process = self._process
        if process is not None:
            process.kill()  # it holds nothing worth a farewell; the feeding thread reads the end and cleans up
            process.wait()


def serve(connection: Any) -> None:
    """The worker's loop: scores what it is sent until the other end closes."""
    connection.send("ready")
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        if message[0] is None:
            _import_packages(message[1])
            continue
        clean, estimate, sample_rate_hz, metrics, files = message
        connection.send(tuple(score(clean, estimate, sample_rate_hz, metrics, files)))


def _import_packages(metrics: Sequence[str]) -> None:
    for package in {package for name in metrics for package in METRICS[name].packages}:
        with contextlib.suppress(Exception):  # (check_metrics has spoken of it, or scoring will)
            importlib.import_module(package)
