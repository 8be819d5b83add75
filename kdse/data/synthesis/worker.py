"""A process that renders clips of the embedded corpus: ``python -m kdse.data.synthesis.worker``.

It reads a line of JSON with the settings and the folder, then clip numbers, one a line, and answers each with a line
of JSON once the file is in place. It ends with its input, so it never outlives the process that started it.

A plain subprocess, not multiprocessing: spawned processes import the user's script again, which goes wrong without a
``__main__`` guard, in notebooks and for code from standard input.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from kdse.data.synthesis.plan import Clip, Settings, plan
from kdse.data.synthesis.sound import SAMPLE_RATE_HZ
from kdse.machine.packages import required
from kdse.machine.processes import worker_environment

UNFINISHED = ".unfinished"


def render(clip: Clip, folder: Path) -> None:
    """Writes one clip below ``folder`` as 16-bit FLAC, whole or not at all; an OSError if it cannot be written."""
    soundfile = required("soundfile")
    target = folder / clip.path
    target.parent.mkdir(parents=True, exist_ok=True)
    # Encoded in memory: libsndfile would report a full disk as "System error".
    encoded = io.BytesIO()
    soundfile.write(encoded, clip.render(), SAMPLE_RATE_HZ, subtype="PCM_16", format="FLAC")
    unfinished = target.with_name(f"{target.name}.{os.getpid()}{UNFINISHED}")
    try:
        unfinished.write_bytes(encoded.getbuffer())
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


class Worker:
    """The parent's handle on one worker process."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kdse.data.synthesis.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=worker_environment(threads=1),
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout
        self._send({"minutes": settings.minutes, "seed": settings.seed, "folder": str(folder.resolve())})

    def render(self, number: int) -> None:
        """Has one clip of the plan rendered and waits for it.

        Raises:
            OSError: the file cannot be written.
            RuntimeError: the process died.
        """
        self._send(number)
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError(f"exit code {self._process.wait()}")
        if (problem := json.loads(answer)) is not None:
            raise OSError(None, problem)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _send(self, message: object) -> None:
        try:
            self._orders.write(json.dumps(message) + "\n")
            self._orders.flush()
        except BrokenPipeError:
            raise RuntimeError(f"exit code {self._process.wait()}") from None


def main() -> int:
    """The worker process itself; returns its exit code."""
    # Ctrl-C reaches the whole process group; stopping is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nothing a library prints may be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    clips = plan(Settings(minutes=order["minutes"], seed=order["seed"]))
    for line in sys.stdin:
        problem = None
        try:
            render(clips[json.loads(line)], Path(order["folder"]))
        except OSError as error:
            problem = error.strerror or str(error)
        try:
            print(json.dumps(problem), file=answers, flush=True)
        except BrokenPipeError:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
