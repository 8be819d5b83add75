"""The points of a sweep as Optuna trials in one storage that the workers of several machines share.

A point is taken while the lock of its trial is held; the kernel frees that lock when worker and training are gone
(`kdse.machine.locks`), and the point goes on at once. Optuna's heartbeat is no substitute: it needs a database, works
in ``study.optimize`` only, frees a point two intervals after a kill, and begins it anew instead of going on.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdse.errors import UserError
from kdse.internals.optuna import queued_values, taken_up
from kdse.machine.files import write_text
from kdse.machine.locks import JournalLock, Lock, held, take
from kdse.run.folder import LOCK
from kdse.sweeps.conditions import identifying
from kdse.sweeps.definition import Sweep

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

JOURNAL = "study.journal"
RUNS = "runs"
#: Of a database's URL: it is not kept.
PASSWORD = re.compile(r"(://[^:/@]*):[^/]*@")
#: Attributes of the study, and of a trial.
DEFINITION = "definition"
IDENTITY, ERROR, RETRY_OF = "identity", "error", "retry_of"
STATES = {"WAITING": "waiting", "COMPLETE": "finished", "PRUNED": "stopped early", "FAIL": "failed"}


@dataclass(frozen=True)
class Claim:
    """A point that is ours until `Store.release`.

    number: of the point, from 0. trial: of Optuna. values: by parameter name. lock: the open file that holds it.
    again: whether it was begun before.
    """

    number: int
    trial: Trial
    values: dict[str, Any]
    lock: int
    again: bool


@dataclass(frozen=True)
class Point:
    """A point as it stands.

    number: from 0. values: by parameter name. state: "waiting", "running", "interrupted", "finished", "stopped early"
    or "failed". identity: of its run (the name of its run folder), once known. value: of the metric, if it has one.
    error: what ended it, if it failed. attempts: how often it was begun anew after a failure, plus one.
    """

    number: int
    values: dict[str, Any]
    state: str
    identity: str | None
    value: float | None
    error: str | None
    attempts: int


class Store:
    """The points of one sweep.

    Args:
        sweep: what is swept.
        out: the sweep's folder.
        storage: URL of a database that Optuna knows; None is a file in the folder.
        seed: of random and bayes. The draw of a point depends on the seed and its number, not on who draws it.
        definition: plain data that must be the same whenever the sweep goes on. Who only looks may give a part of it,
            and what could not be told before is added to it.

    Raises:
        ValueError: if the folder holds another sweep, saying what differs, or the storage cannot be used.
    """

    def __init__(self, sweep: Sweep, out: Path, storage: str | None, seed: int, definition: Mapping[str, Any]) -> None:
        self.sweep, self.out, self.seed = sweep, out, seed
        (out / "locks").mkdir(parents=True, exist_ok=True)
        self._lock = Lock(out / "locks" / "sweep.lock")
        self._held: set[int] = set()
        with self._lock:
            self.study = self._open(storage)
            self._check_definition(json.loads(json.dumps(definition, default=str)))
            if sweep.method == "grid":
                for point in self._missing():
                    self.study.enqueue_trial(point)

    def _check_definition(self, plain: dict[str, Any]) -> None:
        stored = self.study.user_attrs.get(DEFINITION)
        known = plain if stored is None else {**plain, **stored}
        if "flags" in known:  # (a sweep that was begun when all flags were kept goes on)
            known["flags"] = identifying(known["flags"])
        same = {key: known[key] for key in plain}
        if same != plain:
            raise UserError(
                f"--out {self.out}: holds another sweep, {_difference(same, plain)}; give another --out, or what it "
                "was begun with"
            )
        if known != stored:
            self.study.set_user_attr(DEFINITION, known)

    def _missing(self) -> list[dict[str, str]]:
        """The points of a grid that no trial has. (By value: the file's parameters may have changed places.)"""
        drawn = [p.name for p in self.sweep.parameters if p.distribution != "constant"]
        there = set()
        for trial in _latest(self._trials()).values():
            values = {**queued_values(trial), **trial.params}
            there.add(tuple(values.get(name) for name in drawn))
        points = [tuple(str(values[name]) for name in drawn) for values in self.sweep.grid()]
        missing = [point for point in points if point not in there]
        return [dict(zip(drawn, point, strict=True)) for point in missing[: max(0, len(points) - len(there))]]

    def claim(self, passed_over: Container[int] = ()) -> Claim | None:
        """The next point to train: an interrupted one, else a new one. None if none is left or all are somebody's.

        Args:
            passed_over: points to leave alone.
        """
        with self._lock:
            trials = self._trials()
            numbers = _numbers(trials)
            for trial in trials:
                if trial.state.name == "RUNNING" and numbers[trial.number] not in passed_over:
                    claim = self._take(trial, numbers[trial.number])
                    if claim is not None:
                        return claim
            waiting = any(trial.state.name == "WAITING" for trial in trials)
            cap = 0 if self.sweep.method == "grid" else self.sweep.run_cap
            if not waiting and cap is not None and len(set(numbers.values())) >= cap:
                return None
            self.study.sampler = sampler(self.sweep.method, self.seed, len(trials))
            asked = self.study.ask()
            values = self.sweep.draw(asked)
            lock = take(self._lock_of(asked.number))
            assert lock is not None, f"trial {asked.number} is new and somebody has it"
            self._held.add(lock)
            return Claim(_numbers(self._trials())[asked.number], asked, values, lock, RETRY_OF in asked.user_attrs)

    def _take(self, trial: FrozenTrial, number: int) -> Claim | None:
        """An interrupted trial, unless somebody has it or trains in its run folder."""
        lock = take(self._lock_of(trial.number))
        if lock is None:
            return None
        if self._trains(trial):
            os.close(lock)
            return None
        self._held.add(lock)
        self.study.sampler = sampler(self.sweep.method, self.seed, trial.number)
        taken = taken_up(self.study, trial)
        return Claim(number, taken, self.sweep.draw(taken), lock, again=True)  # (draws what a kill left undrawn)

    def note_identity(self, claim: Claim, identity: str) -> None:
        """Keeps which run a point is."""
        with self._lock:
            claim.trial.set_user_attr(IDENTITY, identity)

    def finish(self, claim: Claim, value: float) -> None:
        """Ends a point with the value of its metric, and gives it back."""
        with self._lock:
            self.study.tell(claim.trial, value)
        self.release(claim)

    def stop_early(self, claim: Claim, values: Sequence[float]) -> None:
        """Ends a point that fell behind, with the values that its metric had, and gives it back."""
        from optuna.trial import TrialState

        with self._lock:
            for iteration, value in enumerate(values, 1):
                claim.trial.report(value, iteration)
            self.study.tell(claim.trial, state=TrialState.PRUNED)
        self.release(claim)

    def fail(self, claim: Claim, error: str) -> None:
        """Ends a point that failed, and gives it back."""
        from optuna.trial import TrialState

        with self._lock:
            claim.trial.set_user_attr(ERROR, error)
            self.study.tell(claim.trial, state=TrialState.FAIL)
        self.release(claim)

    def release(self, claim: Claim) -> None:
        """Gives a point back; one that was not ended is interrupted."""
        self._held.remove(claim.lock)
        os.close(claim.lock)

    def close(self) -> None:
        """Gives every claimed point back."""
        while self._held:
            os.close(self._held.pop())

    def retry_failed(self) -> None:
        """Queues failed points again."""
        with self._lock:
            for number, trial in _latest(self._trials()).items():
                if trial.state.name == "FAIL":
                    self.study.enqueue_trial(dict(trial.params), user_attrs={RETRY_OF: number})

    def points(self) -> list[Point]:
        """All points that there are yet, by number."""
        with self._lock:
            trials = self._trials()
        attempts = Counter(_numbers(trials).values())
        return [self._point(number, trial, attempts[number]) for number, trial in sorted(_latest(trials).items())]

    def _point(self, number: int, trial: FrozenTrial, attempts: int) -> Point:
        from optuna.trial import FixedTrial

        running = held(self._lock_of(trial.number)) or self._trains(trial)
        state = STATES.get(trial.state.name) or ("running" if running else "interrupted")
        drawn = trial.params or queued_values(trial)
        complete = all(p.name in drawn for p in self.sweep.parameters if p.distribution != "constant")
        values = self.sweep.draw(FixedTrial(drawn)) if complete else {}
        value = trial.value if state in ("finished", "stopped early") else None
        error = trial.user_attrs.get(ERROR) if state == "failed" else None
        return Point(number, values, state, trial.user_attrs.get(IDENTITY), value, error, attempts)

    def _trains(self, trial: FrozenTrial) -> bool:
        """Whether a process is in the run folder of a trial, for it or for another of the same settings."""
        identity = trial.user_attrs.get(IDENTITY)
        return identity is not None and held(self.out / RUNS / identity / LOCK)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _lock_of(self, trial: int) -> Path:
        return self.out / "locks" / f"{trial:05d}.lock"

    def _open(self, storage: str | None) -> Study:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        name_file, place, journal = (self.out / name for name in ("study_name", "storage", JOURNAL))
        new = not name_file.is_file()
        own = JOURNAL if storage is None else PASSWORD.sub(r"\1@", storage)
        if new:
            name = f"{self.out.name}-{uuid.uuid4().hex[:8]}"
        else:
            name = name_file.read_text(encoding="utf-8").strip()
            self._check_place(place, own)
        opened: Any = storage
        if storage is None:
            # the lock has an optuna lock's methods but not its base class, which would import optuna
            opened = JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))  # type: ignore[arg-type]
        try:
            study = optuna.create_study(
                study_name=name,
                storage=opened,
                direction="maximize" if self.sweep.maximize else "minimize",
                load_if_exists=True,
            )
        except Exception as error:  # (whatever a database's driver raises)
            where = journal if storage is None else f"--storage {storage}"
            raise UserError(f"{where}: cannot be used ({type(error).__name__}: {error})") from error
        if new:  # (in this order: what has a name has a place)
            write_text(place, f"{own}\n")
            write_text(name_file, f"{name}\n")
        return study

    def _check_place(self, place: Path, own: str) -> None:
        """Raises a ValueError if the sweep was begun in another storage, where its points still are."""
        try:
            known = place.read_text(encoding="utf-8").strip()
        except FileNotFoundError:  # (begun before the storage was kept)
            known = JOURNAL if (self.out / JOURNAL).is_file() else own
        if known != own:
            fix = "leave --storage out" if known == JOURNAL else f"give --storage {known}"
            raise UserError(f"--out {self.out}: the points of its sweep are in {known}, not in {own}; {fix}")


def _numbers(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The point of every trial: a retry is the point it retries, any other the next one."""
    new = itertools.count()
    retried = {trial.number: trial.user_attrs.get(RETRY_OF) for trial in trials}
    return {number: next(new) if point is None else point for number, point in retried.items()}


def _latest(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Every point's latest trial, by the point's number."""
    numbers = _numbers(trials)
    return {numbers[trial.number]: trial for trial in trials}


def sampler(method: str, seed: int, drawn: int) -> BaseSampler:
    """A sampler whose randomness is a function of the seed and the number of points before: a restart repeats none."""
    import numpy as np
    from optuna.samplers import RandomSampler, TPESampler

    own = int(np.random.SeedSequence([seed, drawn]).generate_state(1)[0])
    return TPESampler(seed=own) if method == "bayes" else RandomSampler(seed=own)


def _difference(known: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str:
    """The first place where two definitions differ."""
    key = next((key for key in [*known, *now] if known.get(key) != now.get(key)), None)
    if key is None:
        return "which differs"
    a, b = known.get(key), now.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
        return _difference(a, b, f"{path}{key}: ")
    return f"whose {path}{key} is {_short(a)} and not {_short(b)}"


def _short(value: Any) -> str:
    text = "not there" if value is None else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
