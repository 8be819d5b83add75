"""The local runner of a sweep: trains its points in parallel until none is left or a signal comes."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from kdse.errors import UserError
from kdse.machine.engine import carry_out
from kdse.machine.locks import held
from kdse.machine.processes import KDSE, SAFE_PATH, STOPPED, listening
from kdse.machine.threads import share
from kdse.run.folder import LOCK, result
from kdse.run.log import history
from kdse.sweeps.child import Child
from kdse.sweeps.command import fit_arguments, fit_flags
from kdse.sweeps.definition import Sweep
from kdse.sweeps.progress import Progress
from kdse.sweeps.store import RUNS, Store

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
#: Exit code of `kdse fit` for a mistake in settings or machine, and so many of it first that no more points are begun.
MISTAKE, ENOUGH_MISTAKES = 2, 3
#: Seconds between two looks at what others leave to do.
ASK_SECONDS = 2.0


@dataclass(frozen=True)
class Settings:
    """How points are run.

    out: the sweep's folder. program: what `kdse` is on this machine. extra: flags after each point's own.
    workers: processes at once. max_points: how many to begin at most. wait: stay while others train, to take over what
    they leave. gpus: names of those to share out among workers, none to leave that alone.
    """

    out: Path
    program: tuple[str, ...] = KDSE
    extra: tuple[str, ...] = ()
    workers: int = 1
    max_points: int | None = None
    wait: bool = True
    gpus: tuple[str, ...] = ()


class Runner:
    """Trains points until none is left. ``interrupted`` has the numbers of those that can go on.

    Args:
        sweep: what is swept.
        store: its points.
        settings: how they are run.
        progress: what shows it.
    """

    def __init__(self, sweep: Sweep, store: Store, settings: Settings, progress: Progress) -> None:
        self.sweep, self.store, self.settings, self.progress = sweep, store, settings, progress
        self.interrupted: list[int] = []
        self.stopping = False
        self._signals: list[int] = []
        self._sent: signal.Signals | None = None  # what the runs get, once it has been said
        self._begun = 0
        self._compared: dict[int, int] = {}
        self._exit_codes: list[int] = []
        self._ask_at = 0.0
        self._others: list[int] | None = None
        self._told: list[int] = []

    def run(self) -> None:
        """Works until there is nothing left to do, or a signal stops it."""
        with listening(STOPPING, self._signalled):
            carry_out(self._begin, self._end, self._look, self._waits, self.settings.workers)

    def _begin(self, place: int) -> Child | None:
        if self.stopping or self._enough() or time.monotonic() < self._ask_at:
            return None
        claim = self.store.claim(self.interrupted)
        if claim is None:
            self._ask_at, self._others = time.monotonic() + ASK_SECONDS, None
            return None
        command = fit_command(self.sweep, self.settings, claim.values)
        log = self.settings.out / "logs" / f"point-{claim.number + 1:04d}.log"
        try:
            child = Child(claim, command, log, self._environment(place))
        except OSError as error:
            self.store.release(claim)
            raise UserError(f"--program: {command[0]} cannot be started ({error.strerror or error})") from None
        self._begun += 1
        self.progress.started(child)
        return child

    def _waits(self) -> bool:
        """Whether others train points that we could take over if they are killed."""
        if self.stopping or self._enough() or not self.settings.wait:
            return False
        if self._others is None:  # (once for each time that nothing was left to begin)
            self._others = [point.number + 1 for point in self.store.points() if point.state == "running"]
            if self._others and self._others != self._told:
                names = ", ".join(map(str, self._others))
                self.progress.say(
                    f"nothing left to begin; waiting for point {names}, which others train (Ctrl-C leaves them to it)"
                )
                self._told = self._others
        return bool(self._others)

    def _look(self, running: Collection[Child]) -> None:
        while self._signals:
            received = signal.Signals(self._signals.pop(0))
            if self._sent is None:
                self._sent = signal.SIGTERM
                self.progress.say(f"{received.name}: stopping {len(running)} run(s), which keep their last checkpoint")
            elif received == signal.SIGINT:  # (no other kills: a cluster sends SIGUSR1 and SIGTERM for one end)
                self._sent = signal.SIGKILL
                self.progress.say(f"{received.name} again: killing {len(running)} run(s)")
        for child in running:
            self._note_identity(child)
            if self._sent is not None:
                child.stop(self._sent)
            elif child.poll() is None and self._falls_behind(child):
                child.stopped_early = True
                child.stop()
        self.progress.show(running)

    def _note_identity(self, child: Child) -> None:
        identity = child.find_identity()
        if identity is not None:
            self.store.note_identity(child.claim, identity)

    def _end(self, child: Child, code: int) -> None:
        self._note_identity(child)
        self._ask_at = 0.0
        claim, metric = child.claim, self.sweep.metric
        folder = self._folder(child.identity)
        # (a signal before `kdse fit` listens to it kills: nothing is lost by then)
        killed = self._sent == signal.SIGKILL and code == -signal.SIGKILL
        stopped = killed or code in (STOPPED, -signal.SIGTERM, -signal.SIGUSR1)
        if code == 0:
            found = result(folder) if folder else None
            value = None if found is None else found.get("metrics", {}).get(metric)
            if isinstance(value, (int, float)) and math.isfinite(value):
                self.store.finish(claim, float(value))
                self.progress.ended(child, f"finished, {metric} {value:.4g}", folder)
            else:
                self._fail(child, self._no_value(found))
        elif stopped and child.stopped_early and folder is not None:
            values = list(history(folder, metric).values())
            self.store.stop_early(claim, values)
            best = (max if self.sweep.maximize else min)(values, default=math.nan)
            self.progress.ended(child, f"stopped early by Hyperband, best {metric} {best:.4g}", folder)
        elif stopped:
            self.store.release(claim)
            self.interrupted.append(claim.number)
            self.progress.ended(child, "stopped, can go on")
        elif folder is not None and held(folder / LOCK):  # another point or process trains this very run
            self.store.release(claim)
            self._begun -= 1
            self.progress.ended(child, f"waits: another process trains {folder}, the same run")
            return
        else:
            self._fail(child, child.last_line() if code > 0 else f"killed by {_name(-code)}")
        self._exit_codes.append(code)
        if len(self._exit_codes) == ENOUGH_MISTAKES and self._all_refused():
            self.progress.say(
                f"the first {ENOUGH_MISTAKES} points were all refused by kdse fit (exit code 2), as others would be: "
                "no more are begun; mend what their last lines say"
            )

    def _fail(self, child: Child, why: str) -> None:
        self.store.fail(child.claim, why)
        self.progress.ended(child, f"FAILED: {why}")

    def _no_value(self, found: Mapping[str, Any] | None) -> str:
        if found is None:
            return "ended with exit code 0, but left no result"
        known = ", ".join(sorted(found.get("metrics", {}))) or "none"
        return f"logged no {self.sweep.metric}, the sweep's metric; it has {known}"

    def _environment(self, place: int) -> dict[str, str]:
        environment = dict(os.environ)
        if self.settings.program != Settings.program:  # (a program of the user's finds its modules where it always did)
            environment = {name: value for name, value in environment.items() if SAFE_PATH.get(name) != value}
        environment |= share(self.settings.workers)
        if self.settings.gpus and self.settings.workers > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self.settings.gpus[place % len(self.settings.gpus)]
        return environment

    def _falls_behind(self, child: Child) -> bool:
        """Whether the rule for early termination stops a run now; asked once for every new value that it has."""
        folder = self._folder(child.identity)
        if self.sweep.hyperband is None or child.stopped_early or folder is None:
            return False
        own = list(history(folder, self.sweep.metric).values())
        if len(own) == self._compared.get(child.process.pid):
            return False
        self._compared[child.process.pid] = len(own)
        if len(own) < self.sweep.hyperband.brackets[0]:
            return False
        identities = {point.identity for point in self.store.points() if point.identity is not None}
        runs = [self.settings.out / RUNS / identity for identity in sorted(identities)]
        return self.sweep.hyperband.stops(own, [list(history(run, self.sweep.metric).values()) for run in runs])

    def _folder(self, identity: str | None) -> Path | None:
        return None if identity is None else self.settings.out / RUNS / identity

    def _enough(self) -> bool:
        many = self.settings.max_points is not None and self._begun >= self.settings.max_points
        return many or self._all_refused()

    def _all_refused(self) -> bool:
        """Whether the first points that ended here were all refused, as all others would be (no corpus here, say)."""
        return self._exit_codes[:ENOUGH_MISTAKES] == [MISTAKE] * ENOUGH_MISTAKES

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True
        self._signals.append(number)  # (`_look` acts on it: this might interrupt a print)


def fit_command(sweep: Sweep, settings: Settings, values: Mapping[str, Any]) -> list[str]:
    """The command line that trains a point."""
    flags = fit_flags(sweep.command, sweep.arguments(values))
    root = f"--run_root={settings.out / RUNS}"
    return [*settings.program, *fit_arguments(flags, root, go_on=True, more=["--wandb=off", *settings.extra])]


def _name(number: int) -> str:
    name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
    return f"{name} (out of memory?)" if number == signal.SIGKILL else name
