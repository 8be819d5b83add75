"""Progress of a sweep: a line when a point begins or ends; on a terminal, a live table of what runs below them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kdse.errors import printable
from kdse.run.log import validations

if TYPE_CHECKING:
    from kdse.sweeps.child import Child
    from kdse.sweeps.definition import Sweep


class Progress:
    """Lines, and on a terminal a table of the runs of this process, drawn within the context ``live``.

    Args:
        sweep: what is swept.
        runs: folder of the run folders.
        stream: where to write.
    """

    def __init__(self, sweep: Sweep, runs: Path, stream: IO[str]) -> None:
        self.sweep, self.runs, self.total, self.stream = sweep, runs, sweep.points(), stream
        self.live: AbstractContextManager[Any] = nullcontext()
        self._console: Any = None
        self._shown = 0.0
        if stream.isatty():
            from rich.console import Console
            from rich.live import Live

            self._console = Console(file=stream)
            # no thread of its own: a process with one thread can start children safely
            self.live = Live(console=self._console, auto_refresh=False, transient=True)

    def say(self, text: str) -> None:
        """One line, in which names and logs of runs act on nothing."""
        text = printable(text)
        if self._console is None:
            print(text, file=self.stream, flush=True)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def started(self, child: Child) -> None:
        verb = "goes on" if child.claim.again else "begins"
        self.say(f"{self._point(child)} {verb}: {described(self.sweep, child.claim.values)} (log {child.log})")

    def ended(self, child: Child, how: str, folder: Path | None = None) -> None:
        where = f", {folder}" if folder is not None else ""
        self.say(f"{self._point(child)} {how} (after {_span(child)}{where})")

    def show(self, children: Collection[Child]) -> None:
        """Draws the table again, once a second at most."""
        if self._console is None or time.monotonic() - self._shown < 1.0:
            return
        from rich.table import Column, Table
        from rich.text import Text

        self._shown = time.monotonic()
        columns = (Column(title, overflow="fold") for title in ("point", "values", "step", self.sweep.metric, "time"))
        table = Table(*columns, box=None, pad_edge=False, header_style="dim")
        for child in children:
            last: dict[str, Any] = {"step": "", "metrics": {}}
            if child.identity is not None:
                last = (validations(self.runs / child.identity) or [last])[-1]
            values = described(self.sweep, child.claim.values)
            value = written(last["metrics"].get(self.sweep.metric, ""))
            point = self._point(child).removeprefix("point ")
            table.add_row(*map(Text, (point, values, str(last["step"]), value, _span(child))))
        live: Any = self.live
        live.update(table, refresh=True)

    def _point(self, child: Child) -> str:
        of = f" of {self.total}" if self.total else ""
        return f"point {child.claim.number + 1}{of}"


def described(sweep: Sweep, values: Mapping[str, Any]) -> str:
    """The values of a point that differ between points."""
    return " ".join(f"{p.name}={written(values[p.name])}" for p in sweep.parameters if p.varies and p.name in values)


def written(value: Any) -> str:
    """A value for people: floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _span(child: Child) -> str:
    """How long a process has run: ``2 h 5 min``, ``3 min 2 s``, ``4.1 s``."""
    seconds = time.monotonic() - child.started
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
