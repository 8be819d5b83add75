"""`ScorePool`: scores items in worker processes; a metric that crashes or hangs costs its value on that item.

A worker is a fresh Python process (`kdse.metrics.worker`), not a fork: forking a process that runs CUDA or threads
deadlocks, and multiprocessing's spawn and forkserver import the user's main script again. Each has a connection and a
thread of its own. Pools whose workers share a queue (pebble, concurrent.futures) break or hang as a whole if a worker
is killed while it is idle or receives an item, as the system does when memory runs out.
"""

from __future__ import annotations

import contextlib
import math
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from kdse.errors import require_at_least
from kdse.machine.processes import worker_environment
from kdse.metrics.registry import METRICS, Score, Scores, Signal, check_metrics, score_each

#: How long a worker may take to start (a loaded machine imports slowly) before the item counts as failed.
START_S = 120.0
#: Scores a pair of signals by some metrics, with the pool's other settings.
_Scorer = Callable[[np.ndarray, np.ndarray], Scores]
#: Scores an item by the function that it is given, and reports it.
_Work = Callable[[_Scorer], None]


class Scored(NamedTuple):
    """One item: its name and the scores of each of its estimates."""

    name: str
    scores: dict[str, Scores]


class ScorePool:
    """Scores items against clean speech over processes; results come back in the order of submission.

    Args:
        metrics: names from `kdse.metrics.METRICS`.
        sample_rate_hz: of all audio.
        workers: processes; 0 scores in this process all but what is native code (`Metric.native`), which gets a process
            of its own. Values do not depend on it.
        timeout_s: a metric that takes longer on an item counts as failed there, and its worker is replaced.
        files: model files that some metrics need, by name (see `kdse.metrics.check_metrics`).

    A worker that dies (PESQ is C code) fails the metric it was working on, is replaced, and goes on with the next.
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
        self._crew: list[_Process] = []
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

        def work(scorer: _Scorer) -> None:
            scored = Scored(name, {system: scorer(clean, wave) for system, wave in copies.items()})
            with self._reporting:
                if done is not None and self._error is None:
                    try:
                        done(scored)
                    except BaseException as error:
                        self._error = error
            result.set_result(scored)

        self.start()
        if self.workers:
            self._tasks.put(work)
        else:
            work(self._score_here)
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
        native = [name for name in self.metrics if METRICS[name].native]
        while len(self._crew) < (self.workers or bool(native)):
            process = _Process(self.metrics if self.workers else native, self.timeout_s)
            if self.workers:
                process.serve(self._tasks, partial(self._score_in, process))
            else:
                with contextlib.suppress(OSError):  # (then the first item tries again)
                    process.start()
            self._crew.append(process)

    def close(self) -> None:
        """Ends the worker processes; what was not collected is lost. A later submit starts them again."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for process in self._crew:
            if self.workers:
                self._tasks.put(None)
            process.stop()
        for process in self._crew:
            process.join()
        self._crew, self._results, self._error = [], [], None

    def __enter__(self) -> ScorePool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles (weight averaging, ddp_spawn) carry settings, not processes and items."""
        return type(self), (self.metrics, self.sample_rate_hz, self.workers, self.timeout_s, self.files)

    def _score_in(self, process: _Process, clean: np.ndarray, estimate: np.ndarray) -> Scores:
        return Scores.of(process.score(clean, estimate, self.sample_rate_hz, self.metrics, self.files))

    def _score_here(self, clean: np.ndarray, estimate: np.ndarray) -> Scores:
        """Without worker processes: native code in its process, all else here."""
        plain = [name for name in self.metrics if not METRICS[name].native]
        settings = (self.sample_rate_hz, self.files)
        found = dict(zip(plain, score_each(clean, estimate, settings[0], plain, settings[1]), strict=True))
        for process in self._crew:
            found |= process.score(clean, estimate, settings[0], process.metrics, settings[1])
        return Scores.of({name: found[name] for name in self.metrics})

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


class _Process:
    """A worker process, which is started when first needed and again after a crash."""

    def __init__(self, metrics: Sequence[str], timeout_s: float) -> None:
        self.metrics, self._timeout_s = tuple(metrics), timeout_s
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._ready = False
        self._ended = False  # for good
        self._starting = threading.Lock()

    def serve(self, tasks: queue.Queue[_Work | None], scorer: _Scorer) -> None:
        """Hands tasks to the process from a thread of its own, so that it is busy while this process runs the model."""

        def run() -> None:
            with contextlib.suppress(EOFError, OSError):  # (then the first item tries again)
                self._connect()
            while (work := tasks.get()) is not None:
                work(scorer)

        # a daemon: this process, when it ends, does not wait for items that nobody will collect
        self._thread = threading.Thread(target=run, name="kdse-score", daemon=True)
        self._thread.start()

    def score(
        self, clean: np.ndarray, estimate: np.ndarray, sample_rate_hz: int, metrics: Sequence[str], files: Any
    ) -> dict[str, Score]:
        """As `kdse.metrics.score`, but whatever happens, a crash or a time-out too, fails the metric it happens to.

        A process that died before it had the item (the system killed it) is replaced, once.
        """
        found: dict[str, Score] = {}
        again = True
        while len(found) < len(metrics):
            left = metrics[len(found) :]
            lost: Sequence[str] = left
            try:
                connection = self._connect()
                lost, again = ([], False) if again else (left, False)
                connection.send((clean, estimate, sample_rate_hz, left, files))
                self._answer(connection)
                for name in left:
                    lost = [name]
                    found[name] = self._answer(connection)
            except BaseException as error:
                reason = self._reason(error)
                self._end()
                if not isinstance(error, Exception):
                    raise
                found |= dict.fromkeys(lost, Score(math.nan, reason))
        return found

    def _answer(self, connection: Connection) -> Any:
        if not connection.poll(self._timeout_s):
            raise TimeoutError
        return connection.recv()

    def stop(self) -> None:
        """Ends the process for good, from another thread and in the middle of an item; `join` cleans up."""
        with self._starting:
            self._ended = True
            process = self._process
        if process is not None:
            process.kill()

    def join(self) -> None:
        """Waits for the end after `stop`."""
        if self._thread is not None:
            self._thread.join()
        self._end()

    def start(self) -> None:
        """Starts the process, unless there is one; it imports while the caller goes on. EOFError after `stop`."""
        if self._process is not None:
            return
        ours, theirs = Pipe()
        environment = worker_environment(threads=1)  # (workers are how the machine's cores are used)
        with theirs, self._starting:
            if self._ended:
                raise EOFError
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kdse.metrics.worker", str(theirs.fileno()), *self.metrics],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
            )  # fmt: skip
        self._connection = ours

    def _connect(self) -> Connection:
        """The connection to a process that has imported what its metrics need; EOFError or OSError if there is none."""
        self.start()
        assert self._connection is not None
        if not self._ready:
            if not self._connection.poll(START_S):
                raise EOFError
            self._connection.recv()  # "ready"
            self._ready = True
        return self._connection

    def _end(self) -> None:
        process, connection = self._process, self._connection
        self._process, self._connection, self._ready = None, None, False
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()  # it has nothing to save
            process.wait()

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"scoring took longer than {self._timeout_s:g} s"
        if not isinstance(error, (EOFError, OSError)):
            return f"could not be scored ({type(error).__name__}: {error})"
        return f"the scoring process died ({self._exit_code()})"

    def _exit_code(self) -> str:
        if self._process is None:
            return "it did not start"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            return f"signal {-code}" if code < 0 else f"exit code {code}"
        return "no answer"
