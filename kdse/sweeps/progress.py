"""What a sweep says while it runs: a line for every beginning and end, and on a terminal what runs now below them."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kdse.run.log import history, validations

if TYPE_CHECKING:
    from kdse.sweeps.child import Child
    from kdse.sweeps.definition import Sweep


class Progress:
    """Plain lines.

    Args:
        sweep: what is swept.
        runs: folder of the run folders.
        stream: where to write.
    """

    def __init__(self, sweep: Sweep, runs: Path, stream: IO[str] | None = None) -> None:
        self.sweep, self.runs, self.total = sweep, runs, sweep.points()
        self.stream = stream or sys.stdout
        self._waiting: list[int] = []

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=self.stream, flush=True)

    def show(self, children: Collection[Child]) -> None:
        """What runs now; called often."""

    def started(self, child: Child) -> None:
        verb = "goes on" if child.claim.again else "begins"
        self.say(f"{self._point(child)} {verb}: {described(self.sweep, child.claim.values)} (log {child.log})")

    def finished(self, child: Child, value: float, folder: Path | None) -> None:
        self._ended(child, f"finished, {self.sweep.metric} {value:.4g}", folder)

    def stopped_early(self, child: Child, folder: Path) -> None:
        values = history(folder, self.sweep.metric).values()
        best_value = (max if self.sweep.maximize else min)(values, default=float("nan"))
        self._ended(child, f"stopped early by Hyperband, best {self.sweep.metric} {best_value:.4g}", folder)

    def failed(self, child: Child, why: str) -> None:
        self._ended(child, f"FAILED: {why}", None)

    def interrupted(self, child: Child) -> None:
        self._ended(child, "stopped, can go on", None)

    def busy(self, child: Child, folder: Path) -> None:
        self._ended(child, f"waits: another process trains {folder}, the same run", None)

    def hopeless(self, points: int) -> None:
        self.say(
            f"the first {points} points were all refused by kdse fit (exit code 2), as others would be: no more are "
            "begun; mend what their last lines say"
        )

    def waiting(self, others: list[int]) -> None:
        if others and others != self._waiting:
            names = ", ".join(str(number + 1) for number in others)
            self.say(f"nothing left to begin; waiting for point {names}, which others train (Ctrl-C leaves them to it)")
        self._waiting = others

    def stopping(self, name: str, children: int, kill: bool) -> None:
        if kill:
            self.say(f"{name} again: killing {children} run(s)")
        else:
            self.say(f"{name}: stopping {children} run(s), which keep their last checkpoint")

    def _ended(self, child: Child, what: str, folder: Path | None) -> None:
        where = f", {folder}" if folder is not None else ""
        self.say(f"{self._point(child)} {what} (after {span(child.seconds)}{where})")

    def _point(self, child: Child) -> str:
        of = f" of {self.total}" if self.total else ""
        return f"point {child.claim.number + 1}{of}"


class LiveProgress(Progress):
    """The same on a terminal, with the runs of this process below the lines."""

    def __init__(self, sweep: Sweep, runs: Path, stream: IO[str] | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(sweep, runs, stream)
        self.console = Console(file=self.stream)
        # no thread of its own: a process with one thread can start children safely
        self._live = Live(console=self.console, auto_refresh=False, transient=True)
        self._shown = 0.0

    def __enter__(self) -> Progress:
        self._live.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.__exit__(None, None, None)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, children: Collection[Child]) -> None:
        from rich.table import Table
        from rich.text import Text

        if time.monotonic() - self._shown < 1.0:
            return
        self._shown = time.monotonic()
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("point", "values", "step", self.sweep.metric, "time"):
            table.add_column(title, overflow="fold")
        for child in children:
            lines = [] if child.identity is None else validations(self.runs / child.identity)
            value = lines[-1]["metrics"].get(self.sweep.metric) if lines else None
            cells = [
                self._point(child).removeprefix("point "),
                described(self.sweep, child.claim.values),
                str(lines[-1]["step"]) if lines else "",
                f"{value:.4g}" if isinstance(value, (int, float)) else "",
                span(child.seconds),
            ]
            table.add_row(*map(Text, cells))
        self._live.update(table, refresh=True)


def described(sweep: Sweep, values: Mapping[str, Any]) -> str:
    """The values of a point that differ between points."""
    return " ".join(f"{p.name}={written(values[p.name])}" for p in sweep.parameters if p.varies and p.name in values)


def written(value: Any) -> str:
    """A value for people: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def span(seconds: float) -> str:
    """``2 h 5 min``, ``3 min 2 s``, ``4.1 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
