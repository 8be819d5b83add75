"""What starting a Weights & Biases run takes besides `wandb.init`: plain errors, steps and files of offline runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kdse.internals.wandb import earlier_starts, start_folder

if TYPE_CHECKING:
    import wandb

#: Distance between the first internal steps of two offline starts of one run; more than any start has rows.
STRIDE = 1_000_000


def check_installed(flag: str) -> None:
    """Imports wandb, or says what to do.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import wandb  # noqa: F401
    except ImportError:
        raise ValueError(
            f"{flag}: the package wandb is not installed; pip install wandb, or leave the flag out"
        ) from None


@contextmanager
def plain_errors(mode: str) -> Iterator[None]:
    """Turns W&B's own errors into one line with the way out."""
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"--wandb {mode}: Weights & Biases cannot be used ({reason.rstrip('.')}); run `wandb login`, or use "
            "--wandb offline and send the run later with `wandb sync`"
        ) from None


def after_earlier_starts(run: wandb.Run) -> None:
    """Moves an offline start behind earlier ones of the same run.

    W&B numbers rows from 0 in every offline start, and `wandb sync` joins starts of one run by these numbers, so they
    must differ. Online the server does this.
    """
    if run.offline and (earlier := earlier_starts(run)):
        run.log({}, step=STRIDE * earlier)


@contextmanager
def staged(run: wandb.Run) -> Iterator[None]:
    """Keeps the files of tables inside the folder of an offline run, where W&B would put them in the user's home.

    `wandb sync` reads them from there. WANDB_DATA_DIR wins.
    """
    if not run.offline or "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(start_folder(run) / "data")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def table_of(columns: list[str], rows: list[list[Any]]) -> wandb.Table:
    """A `wandb.Table`; W&B wants one type a column, so a column of words and numbers becomes words.

    What is not finite becomes empty: W&B's files are JSON.
    """
    import wandb

    cells = [[_plain(value) for value in row] for row in rows]
    for column in range(len(columns)):
        values = [row[column] for row in cells]
        if any(isinstance(v, str) for v in values) and any(isinstance(v, (int, float)) for v in values):
            for row in cells:
                row[column] = f"{row[column]:g}" if isinstance(row[column], (int, float)) else row[column]
    return wandb.Table(columns=list(columns), data=cells)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not (abs(value) < float("inf")) else value
